//! The unit's web pages, read by their structure (PROTOCOLS.md A1 to A3).
//!
//! The unit answers 200 to everything, pads its texts with blanks, and translates them, so a page is told by its fields.
//! The text of the login error stands in every login page; only its style says whether it is shown.

/// Longest text taken from a page, characters. The status cell is 118 bytes wide.
const TEXT_MAX_LEN: usize = 200;
/// Longest serial number taken from a page, characters. Guess: those seen in dumps have 6.
const SERIAL_MAX_LEN: usize = 32;

/// A page of the unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Page {
    /// Logged in: the page that takes firmware, and the text of its status cell.
    Upload(Option<String>),
    /// The login page.
    Login {
        /// Whether it shows its error; none if that cannot be told.
        error_shown: Option<bool>,
    },
    /// Another page.
    Other,
}

/// What the page after an upload says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Done.
    Success(String),
    /// One part was taken and another was not.
    Mixed(String),
    /// Not done.
    Failure(String),
    /// Nothing that we understand: another language, or no text at all.
    Unclear(String),
    /// The login page: nobody was logged in, and nothing was flashed.
    LoggedOut,
    /// Not one of the unit's pages.
    Foreign,
}

/// Reads a page.
pub fn read(body: &[u8]) -> Page {
    let logout = has_attribute(body, b"name", b"4");
    if logout && has_attribute(body, b"name", b"11111") {
        return Page::Upload(text_of(body, b"st"));
    }
    if !logout && has_attribute(body, b"name", b"2") {
        return Page::Login {
            error_shown: error_shown(body),
        };
    }
    Page::Other
}

/// Judges the page that came back from an upload.
pub fn judge(body: &[u8]) -> Judgement {
    let text = match read(body) {
        Page::Upload(text) => text.unwrap_or_default(),
        Page::Login { .. } => return Judgement::LoggedOut,
        Page::Other => return Judgement::Foreign,
    };
    let words = text.to_ascii_lowercase();
    let says = |known: &[&str]| known.iter().any(|word| words.contains(word));
    match (says(&["success"]), says(&["error", "fail", "incorrect"])) {
        (true, false) => Judgement::Success(text),
        (true, true) => Judgement::Mixed(text),
        (false, true) => Judgement::Failure(text),
        (false, false) => Judgement::Unclear(text),
    }
}

/// The serial number in `st.html`: the value or the text of the element with the id `c6sn`.
///
/// Guess: only the id is known (PROTOCOLS.md A2), so both ways of writing it are read.
pub fn serial(body: &[u8]) -> Option<String> {
    let tag = tag_with(body, b"id", b"c6sn")?;
    let inside = &body[tag.start..tag.end];
    let text =
        attribute(inside, b"value").map_or_else(|| text_after(body, tag.end), |value| Some(clean(value)))?;
    let is_serial = !text.is_empty()
        && text.len() <= SERIAL_MAX_LEN
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && text.bytes().any(|byte| byte != b'0' && byte != b'-');
    is_serial.then_some(text)
}

/// Whether the paragraph with the error is visible: the first `<p>` with a style, in every login page seen.
fn error_shown(body: &[u8]) -> Option<bool> {
    let mut rest = body;
    loop {
        let start = find(rest, b"<p ")?;
        rest = &rest[start..];
        let end = find(rest, b">")?;
        if let Some(style) = attribute(&rest[..end], b"style") {
            return Some(find(style, b"none").is_none());
        }
        rest = &rest[end..];
    }
}

/// The text of the element with this id, trimmed; none without such an element or without its end.
fn text_of(body: &[u8], id: &[u8]) -> Option<String> {
    let tag = tag_with(body, b"id", id)?;
    text_after(body, tag.end)
}

/// The text between a tag and the next.
fn text_after(body: &[u8], at: usize) -> Option<String> {
    let rest = body.get(at + 1..)?;
    Some(clean(&rest[..find(rest, b"<")?]))
}

/// Text in windows-1252 without padding and control characters, bounded. Letters outside Latin-1 do not matter here.
fn clean(bytes: &[u8]) -> String {
    let text: String = bytes
        .iter()
        .map(|&byte| char::from(byte))
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    text.trim().chars().take(TEXT_MAX_LEN).collect()
}

fn has_attribute(body: &[u8], name: &[u8], value: &[u8]) -> bool {
    tag_with(body, name, value).is_some()
}

/// Where the first tag with this attribute stands: from its `<` to its `>`.
fn tag_with(body: &[u8], name: &[u8], value: &[u8]) -> Option<std::ops::Range<usize>> {
    let mut at = 0;
    loop {
        let end = at + find(&body[at..], b">")?;
        // The last `<`: scripts compare with `<` too.
        let start = body[at..end]
            .iter()
            .rposition(|&byte| byte == b'<')
            .map_or(end, |idx| at + idx);
        if attribute(&body[start..end], name) == Some(value) {
            return Some(start..end);
        }
        at = end + 1;
    }
}

/// The value of an attribute of a tag, with or without quotes.
fn attribute<'a>(tag: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let mut at = 0;
    loop {
        let start = at + find(&tag[at..], name)?;
        at = start + name.len();
        let begins = start > 0 && tag[start - 1].is_ascii_whitespace();
        let Some((b'=', rest)) = tag[at..].split_first().filter(|_| begins) else {
            continue;
        };
        let (value, ends): (_, fn(&u8) -> bool) = match rest.split_first() {
            Some((b'"', quoted)) => (quoted, |byte| *byte == b'"'),
            Some((b'\'', quoted)) => (quoted, |byte| *byte == b'\''),
            _ => (rest, u8::is_ascii_whitespace),
        };
        let len = value.iter().position(ends).unwrap_or(value.len());
        return Some(&value[..len]);
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A page like the captured one (PROTOCOLS.md A1): the status cell is 118 bytes wide.
    pub(crate) fn upload_page(status: &str) -> Vec<u8> {
        format!(
            "<!DOCTYPE html><html><head><script>function f(){{document.getElementById(\"st\").innerHTML=\"Status: uploading\"}}\
             </script></head><body><form class=\"l\" method=\"post\" action=\"/\"><label>user    \
             <input name=\"4\" value=\"Logout\" type=\"submit\"></label></form><form class=\"f\" method=\"post\" \
             onsubmit='return document.getElementById(\"st\").innerHTML=\"Status: uploading\"'><table>\
             <input type=\"file\" name=\"11111\" accept=\".bin,.mbin\"><tr><td id=\"st\">{status:<118}</td></tr></table></form></body></html>"
        )
        .into_bytes()
    }

    pub(crate) fn login_page(style: &str) -> Vec<u8> {
        format!(
            "<html><head><style>p{{color:red}}</style></head><body><form method=\"POST\"><div>\
             <p style=\"{style}\">Incorrect password!     </p></div><input type=\"text\" name=\"1\" value=\"user\" maxlength=\"7\"> \
             <input id=\"i_p\" type=\"password\" name=\"2\" value=\"               \"></form></body></html>"
        )
        .into_bytes()
    }

    #[track_caller]
    fn check(status: &str, expected: fn(String) -> Judgement) {
        assert_eq!(judge(&upload_page(status)), expected(status.to_owned()));
    }

    #[test]
    fn every_known_status_is_judged() {
        for status in [
            "Status: Firmware uploaded successfully, device is restarting. Panel firmware upload success: wait until finished.",
            "Status: Firmware uploaded successfully, device is restarting.",
        ] {
            check(status, Judgement::Success);
        }
        for status in [
            "Status: Panel firmware upload error: incorrect file.",
            "Status: Firmware upload error",
            "Status: Firmware upload error: incorrect file.",
        ] {
            check(status, Judgement::Failure);
        }
        check(
            "Status: Firmware uploaded successfully, device is restarting. Panel firmware upload error: incorrect file.",
            Judgement::Mixed,
        );
    }

    #[test]
    fn an_idle_or_translated_status_is_unclear_and_no_success() {
        for status in [
            "Status:",
            "Status: uploading",
            "",
            "Busena: irasyta",
            "Status: Oprogramowanie za",
        ] {
            check(status, Judgement::Unclear);
        }
    }

    #[test]
    fn the_login_page_after_an_upload_is_no_verdict_about_the_file() {
        for style in ["display:none  ", "display:      "] {
            assert_eq!(judge(&login_page(style)), Judgement::LoggedOut, "{style}");
        }
    }

    #[test]
    fn only_the_style_tells_whether_the_login_failed() {
        for (style, shown) in [("display:none  ", true), ("display:      ", false)] {
            let page = Page::Login {
                error_shown: Some(!shown),
            };
            assert_eq!(read(&login_page(style)), page, "{style}");
        }
        let bare = b"<form><p>Incorrect password!</p><input name=\"2\"></form>";
        assert_eq!(read(bare), Page::Login { error_shown: None });
    }

    #[test]
    fn the_page_is_told_by_its_fields_in_any_language() {
        let polish = String::from_utf8(login_page("display:      "))
            .unwrap()
            .replace("Incorrect password!", "Niepoprawne haslo!");
        assert_eq!(
            read(polish.as_bytes()),
            Page::Login {
                error_shown: Some(true)
            }
        );
        let page = String::from_utf8(upload_page("Status:"))
            .unwrap()
            .replace("Logout", "Atsijungti");
        assert_eq!(read(page.as_bytes()), Page::Upload(Some("Status:".to_owned())));
    }

    #[test]
    fn a_page_cut_within_the_status_has_no_status() {
        let page = upload_page("Status: Firmware uploaded successfully, device is restarting.");
        let cut = find(&page, b"successfully").unwrap() + 12;
        assert_eq!(judge(&page[..cut]), Judgement::Unclear(String::new()));
    }

    #[test]
    fn another_servers_page_is_foreign() {
        for body in [
            &b""[..],
            b"OK",
            b"<html>firmware uploaded successfully</html>",
            b"<input name=\"4\"><td id=\"st\">success</td>",
            b"<input name=\"11111\">",
        ] {
            assert_eq!(judge(body), Judgement::Foreign, "{body:?}");
        }
    }

    #[test]
    fn fields_in_text_are_no_fields() {
        let page = b"<p>name=\"4\" name=\"11111\" id=\"st\"</p><p data-name=\"4\">";
        assert_eq!(read(page), Page::Other);
    }

    #[test]
    fn a_serial_number_is_read_from_a_value_or_a_text() {
        for (body, expected) in [
            ("<td id=\"c6sn\">12345678   </td>", Some("12345678")),
            ("<input id=\"c6sn\" value=\"AB-12 \">", Some("AB-12")),
            ("<span class=x id='c6sn'>7</span>", Some("7")),
            ("<span id=c6sn>7</span>", Some("7")),
            ("<td id=\"c6sn\">0000000</td>", None),
            ("<td id=\"c6sn\">        </td>", None),
            ("<td id=\"c6sn\">a<b>c</td>", Some("a")),
            ("<td id=\"c6sn\">12 34</td>", None),
            ("<td id=\"c6sn\">12", None),
            ("<td id=\"sn\">12</td>", None),
        ] {
            assert_eq!(serial(body.as_bytes()).as_deref(), expected, "{body}");
        }
        assert_eq!(
            serial(format!("<b id=\"c6sn\">{}<", "1".repeat(33)).as_bytes()),
            None
        );
    }

    #[test]
    fn control_characters_do_not_pass() {
        let page = upload_page("Status:\u{1b}[2J success\r\n\0");
        assert_eq!(judge(&page), Judgement::Success("Status: [2J success".to_owned()));
    }

    proptest! {
        #[test]
        fn any_page_is_read_without_a_panic(body: Vec<u8>) {
            let _ = (judge(&body), serial(&body));
        }

        #[test]
        fn a_damaged_page_is_read_without_a_panic(at in 0..900_usize, byte: u8, cut in 0..900_usize) {
            let mut page = upload_page("Status:");
            let at = at.min(page.len() - 1);
            page[at] = byte;
            page.truncate(cut.max(1));
            let _ = (judge(&page), serial(&page));
        }
    }
}
