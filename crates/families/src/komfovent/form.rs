//! The login form: what a browser would send (PROTOCOLS.md A2).

use bytes::Bytes;
use secrecy::{ExposeSecret as _, SecretString};

/// What the unit takes its forms in; a multipart login does not work.
pub(super) const CONTENT_TYPE: &str = "application/x-www-form-urlencoded";
/// Body that logs out.
pub(super) const LOGOUT: &str = "4=Logout";
/// Longest user name that the unit takes (`maxlength` of the real login page).
pub(super) const USERNAME_MAX_LEN: usize = 7;
/// User name of a unit as it comes from the vendor.
pub(super) const USERNAME: &str = "user";

/// Why nobody can log in with this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotSendable {
    /// The unit's form has no room for it.
    #[error(
        "the user name is empty or longer than {USERNAME_MAX_LEN} characters, which is all the unit takes"
    )]
    UsernameLength,
    /// The unit's pages are in windows-1252.
    #[error("the user name or the password has a character that the unit's login page cannot carry")]
    Character,
}

/// The body that logs in. It holds the password: never to be logged, never to travel with a file.
pub(super) fn login(username: &str, password: &SecretString) -> Result<Bytes, NotSendable> {
    let len = username.chars().count();
    if len == 0 || len > USERNAME_MAX_LEN {
        return Err(NotSendable::UsernameLength);
    }
    let mut body = String::from("1=");
    encode(username, &mut body)?;
    body.push_str("&2=");
    encode(password.expose_secret(), &mut body)?;
    Ok(Bytes::from(body))
}

/// URL-encodes a value. Of windows-1252 only what it shares with Latin-1 is written.
fn encode(text: &str, body: &mut String) -> Result<(), NotSendable> {
    for c in text.chars() {
        let byte = u8::try_from(u32::from(c))
            .ok()
            .filter(|_| !c.is_control())
            .ok_or(NotSendable::Character)?;
        match byte {
            b' ' => body.push('+'),
            byte if byte.is_ascii_alphanumeric() || b"*-._".contains(&byte) => body.push(c),
            byte => {
                body.push('%');
                body.push_str(&hex::encode_upper([byte]));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(username: &str, password: &str, expected: Result<&'static str, NotSendable>) {
        let body = login(username, &SecretString::from(password));
        assert_eq!(body, expected.map(|body| Bytes::from_static(body.as_bytes())));
    }

    #[test]
    fn the_form_is_what_a_browser_sends() {
        check("user", "user", Ok("1=user&2=user"));
        check("a b", "p&=+%\"", Ok("1=a+b&2=p%26%3D%2B%25%22"));
        check("user", "é*-._~", Ok("1=user&2=%E9*-._%7E"));
        check("user", "", Ok("1=user&2="));
    }

    #[test]
    fn a_user_name_of_eight_characters_is_not_sent() {
        check("1234567", "p", Ok("1=1234567&2=p"));
        check("12345678", "p", Err(NotSendable::UsernameLength));
        check("", "p", Err(NotSendable::UsernameLength));
    }

    #[test]
    fn characters_that_the_form_cannot_carry_are_not_sent() {
        check("user", "ė", Err(NotSendable::Character));
        check("user", "a\nb", Err(NotSendable::Character));
        check("ų", "p", Err(NotSendable::Character));
    }
}
