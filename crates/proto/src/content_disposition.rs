//! The file name in a `Content-Disposition` header (RFC 6266, with the extended values of RFC 8187).
//!
//! It comes from the network and is to become the name of a file: only the last component of a path is taken, and a name
//! that could be anything but a plain one is refused. Whether it is a name that somebody expects is not for this file.

/// Longest name taken, characters. Taste: the vendor's longest has 42.
pub const NAME_MAX_CHARS: usize = 120;

/// Longest header looked at, bytes: room for the longest name with each character as three escaped bytes.
const HEADER_MAX_LEN: usize = 4096;

/// Why a header gives no file name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoName {
    /// It names no file.
    #[error("the header names no file")]
    Missing,
    /// It does not follow the rules for such a header.
    #[error("the header cannot be read")]
    Malformed,
    /// It names a file as nobody should.
    #[error("the name in the header is not that of a plain file")]
    Unsafe,
}

/// The file name that a header gives; an extended one (`filename*`) goes before a plain one, if it can be read.
pub fn file_name(header: &[u8]) -> Result<String, NoName> {
    if header.len() > HEADER_MAX_LEN {
        return Err(NoName::Malformed);
    }
    let mut rest = Rest(header.trim_ascii());
    rest.token().ok_or(NoName::Malformed)?;
    let (mut plain, mut extended) = (None, None);
    while let Some((name, value)) = rest.parameter()? {
        let place = match name.as_str() {
            "filename" => &mut plain,
            "filename*" => &mut extended,
            _ => continue,
        };
        // Two of them: whoever reads them may take either.
        if place.replace(value).is_some() {
            return Err(NoName::Malformed);
        }
    }
    let extended = extended.as_deref().and_then(decode);
    let name = match (extended, plain) {
        (Some(extended), _) => extended,
        (None, Some(plain)) => text(&plain),
        (None, None) => return Err(NoName::Missing),
    };
    last_component(&name)
}

/// The last component of a path in anybody's spelling, if it is a plain name.
pub fn last_component(path: &str) -> Result<String, NoName> {
    if path.chars().any(is_odd) {
        return Err(NoName::Unsafe);
    }
    let name = path.rsplit(['/', '\\']).next().unwrap_or_default().trim();
    let is_plain =
        !name.is_empty() && !name.contains("..") && name != "." && name.chars().count() <= NAME_MAX_CHARS;
    is_plain.then(|| name.to_owned()).ok_or(NoName::Unsafe)
}

/// Characters that no file name needs: controls, and those that turn the direction of writing or are not seen.
fn is_odd(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fffd}')
}

/// The bytes of a header that are still to be read.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn skip_space(&mut self) {
        self.0 = self.0.trim_ascii_start();
    }

    fn token(&mut self) -> Option<String> {
        let len = self.0.iter().take_while(|&&byte| is_token(byte)).count();
        let (token, rest) = self.0.split_at(len);
        self.0 = rest;
        (len > 0).then(|| String::from_utf8_lossy(token).to_ascii_lowercase())
    }

    /// The next parameter; none at the end.
    fn parameter(&mut self) -> Result<Option<(String, Vec<u8>)>, NoName> {
        loop {
            self.skip_space();
            match self.0.split_first() {
                None => return Ok(None),
                Some((b';', rest)) => self.0 = rest,
                Some(_) => return Err(NoName::Malformed),
            }
            self.skip_space();
            // A semicolon with nothing behind it is common and harmless.
            if matches!(self.0.first(), None | Some(b';')) {
                continue;
            }
            let name = self.token().ok_or(NoName::Malformed)?;
            self.skip_space();
            self.0 = self.0.strip_prefix(b"=").ok_or(NoName::Malformed)?;
            self.skip_space();
            return Ok(Some((name, self.value()?)));
        }
    }

    fn value(&mut self) -> Result<Vec<u8>, NoName> {
        let Some(quoted) = self.0.strip_prefix(b"\"") else {
            // Servers leave out the quotes where they are needed: everything up to the next parameter is meant.
            let len = self.0.iter().take_while(|&&byte| byte != b';').count();
            let (value, rest) = self.0.split_at(len);
            self.0 = rest;
            return Ok(value.trim_ascii().to_vec());
        };
        let mut value = Vec::new();
        let mut bytes = quoted.iter();
        loop {
            match bytes.next() {
                None => return Err(NoName::Malformed),
                Some(b'"') => break,
                Some(b'\\') => value.push(*bytes.next().ok_or(NoName::Malformed)?),
                Some(&byte) => value.push(byte),
            }
        }
        self.0 = bytes.as_slice();
        Ok(value)
    }
}

/// RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// A plain value: UTF-8 as servers write it today, else ISO 8859-1 as the rules had it.
fn text(bytes: &[u8]) -> String {
    match str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().map(|&byte| char::from(byte)).collect(),
    }
}

/// An extended value: `UTF-8'en'name%20of%20it` (RFC 8187 section 3.2); none if it is not one.
fn decode(value: &[u8]) -> Option<String> {
    let mut parts = value.splitn(3, |&byte| byte == b'\'');
    let (charset, _language, escaped) = (parts.next()?, parts.next()?, parts.next()?);
    let mut bytes = Vec::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some((&byte, after)) = rest.split_first() {
        if byte == b'%' {
            let (digits, after) = after.split_at_checked(2)?;
            bytes.extend(hex::decode(digits).ok()?);
            rest = after;
        } else if is_token(byte) && byte != b'*' {
            bytes.push(byte);
            rest = after;
        } else {
            return None;
        }
    }
    if charset.eq_ignore_ascii_case(b"UTF-8") {
        String::from_utf8(bytes).ok()
    } else if charset.eq_ignore_ascii_case(b"ISO-8859-1") {
        Some(bytes.iter().map(|&byte| char::from(byte)).collect())
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(header: &str, expected: Result<&str, NoName>) {
        assert_eq!(
            file_name(header.as_bytes()),
            expected.map(str::to_owned),
            "{header:?}"
        );
    }

    const VENDORS: &str = "C6_1_5_46_72_P1_1_1_5_48.mbin";

    #[test]
    fn names_are_read_as_servers_write_them() {
        for header in [
            "attachment; filename=\"C6_1_5_46_72_P1_1_1_5_48.mbin\"",
            "attachment; filename=C6_1_5_46_72_P1_1_1_5_48.mbin",
            "attachment;filename=C6_1_5_46_72_P1_1_1_5_48.mbin;",
            "ATTACHMENT ; FileName = \"C6_1_5_46_72_P1_1_1_5_48.mbin\" ; size=1",
            "inline; filename*=UTF-8''C6_1_5_46_72_P1_1_1_5_48.mbin",
            "attachment; filename=\"old.bin\"; filename*=utf-8'en'C6_1_5_46%5f72_P1_1_1_5_48.mbin",
            "attachment; filename=\"C6_1_5_46_72_P1_1_1_5_48.mbin\"; filename*=UTF-8''%zz",
            "attachment; filename=\"C6_1_5_46_72_P1_1_1_5_48.mbin\"; filename*=utf-7''x",
            "attachment; filename=\"C6_1_5_\\46_72_P1_1_1_5_48.mbin\"",
            "attachment; filename=\"/srv/files/C6_1_5_46_72_P1_1_1_5_48.mbin\"",
            "attachment; filename=\"C:\\\\files\\\\C6_1_5_46_72_P1_1_1_5_48.mbin\"",
            "attachment; x=\"a;filename=b\"; filename=\"C6_1_5_46_72_P1_1_1_5_48.mbin\"",
        ] {
            check(header, Ok(VENDORS));
        }
        check(
            "attachment; filename*=UTF-8''%e2%82%ac%20rates",
            Ok("\u{20ac} rates"),
        );
        check(
            "attachment; filename*=iso-8859-1'en'%A3%20rates",
            Ok("\u{a3} rates"),
        );
        check("attachment; filename=a name.bin", Ok("a name.bin"));
        check("attachment; filename=\"a;b\"", Ok("a;b"));
    }

    #[test]
    fn a_header_without_a_name_gives_none() {
        for header in [
            "attachment",
            "inline; size=3",
            "attachment;",
            "attachment; filename*=UTF-8''%ff",
        ] {
            check(header, Err(NoName::Missing));
        }
    }

    #[test]
    fn a_header_that_can_be_read_in_two_ways_is_not_read_at_all() {
        for header in [
            "",
            "; filename=a",
            "attachment filename=a",
            "attachment; filename",
            "attachment; filename=\"a",
            "attachment; filename=\"a\\",
            "attachment; filename=\"a\"b",
            "attachment; filename=a; filename=b",
            "attachment; filename*=UTF-8''a; filename*=UTF-8''b",
            "attachment; =a",
        ] {
            check(header, Err(NoName::Malformed));
        }
        let long = format!("attachment; filename={}", "a".repeat(HEADER_MAX_LEN));
        check(&long, Err(NoName::Malformed));
    }

    #[test]
    fn a_name_that_is_not_plain_is_refused() {
        for name in [
            "..",
            ".",
            "",
            "/",
            "a/",
            "a\\",
            "a/..",
            "...",
            "a..b",
            "..\\..\\x/..",
            " ",
            "a\u{0}b",
            "a\nb",
            "a\u{1b}[2J",
            "a\u{7f}",
            "a\u{85}",
            "cod.\u{202e}nibm",
            "a\u{200f}",
            "a\u{2066}b",
            "a\u{feff}",
            &"x".repeat(121),
        ] {
            let escaped: String = name
                .bytes()
                .flat_map(|byte| ["%".to_owned(), hex::encode([byte])])
                .collect();
            check(
                &format!("attachment; filename*=UTF-8''{escaped}"),
                Err(NoName::Unsafe),
            );
            assert_eq!(last_component(name), Err(NoName::Unsafe), "{name:?}");
        }
        check("attachment; filename=\"..\"", Err(NoName::Unsafe));
        assert_eq!(last_component(&"x".repeat(120)).as_deref(), Ok(&*"x".repeat(120)));
    }

    #[test]
    fn only_the_last_component_of_a_path_is_taken() {
        for path in [
            "../../etc/passwd",
            "/etc/passwd",
            "C:\\windows\\passwd",
            "..\\passwd",
            "a/../passwd",
        ] {
            assert_eq!(last_component(path).as_deref(), Ok("passwd"), "{path}");
        }
        // Escapes mean something in an extended value alone.
        check("attachment; filename=\"%2e%2e%2fpasswd\"", Ok("%2e%2e%2fpasswd"));
        check("attachment; filename*=UTF-8''%2e%2e%2fpasswd", Ok("passwd"));
    }

    proptest! {
        #[test]
        fn whatever_a_header_says_a_name_is_plain(
            header in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..200),
                "attachment; filename\\*?=\"?(UTF-8'')?[%0-9a-f./\\\\\"; \\PC]{0,60}".prop_map(String::into_bytes),
            ]
        ) {
            if let Ok(name) = file_name(&header) {
                prop_assert!(!name.is_empty() && name.chars().count() <= NAME_MAX_CHARS);
                prop_assert!(!name.contains(['/', '\\', '\0']) && !name.contains("..") && name != ".");
                prop_assert!(!name.chars().any(char::is_control));
            }
        }

        #[test]
        fn a_quoted_name_comes_back_as_it_was(name in "[a-zA-Z0-9_ \"';=%()-]{1,40}") {
            prop_assume!(!name.trim().is_empty());
            let quoted = name.replace('\\', "\\\\").replace('"', "\\\"");
            let found = file_name(format!("attachment; filename=\"{quoted}\"").as_bytes());
            prop_assert_eq!(found.as_deref(), Ok(name.trim()));
        }
    }
}
