//! The two kinds of form bodies that the unit reads.

/// One part of a `multipart/form-data` body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part<'a> {
    pub(super) name: &'a str,
    pub(super) file_name: Option<&'a str>,
    pub(super) content: &'a [u8],
}

/// The value of a field in an `application/x-www-form-urlencoded` body, decoded; none if it is missing.
pub(super) fn urlencoded(body: &[u8], name: &str) -> Option<String> {
    let fields = body.split(|byte| *byte == b'&');
    fields.into_iter().find_map(|field| {
        let value = field.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        Some(String::from_utf8_lossy(&percent_decoded(value)).into_owned())
    })
}

/// The boundary out of a multipart content type; none for any other type.
pub(super) fn boundary(content_type: &str) -> Option<&str> {
    let (kind, parameters) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let boundary = parameters
        .split(';')
        .find_map(|parameter| parameter.trim().strip_prefix("boundary="))?;
    let boundary = boundary.trim_matches('"');
    (!boundary.is_empty()).then_some(boundary)
}

/// The parts of a complete multipart body; none when it breaks off or is no such body.
pub(super) fn multipart<'a>(body: &'a [u8], boundary: &str) -> Option<Vec<Part<'a>>> {
    let delimiter = format!("\r\n--{boundary}");
    let mut rest = body.strip_prefix(&delimiter.as_bytes()[2..])?;
    let mut parts = Vec::new();
    loop {
        if rest.starts_with(b"--") {
            return Some(parts);
        }
        rest = rest.strip_prefix(b"\r\n")?;
        let head_len = find(rest, b"\r\n\r\n")?;
        let (name, file_name) = disposition(&rest[..head_len])?;
        rest = &rest[head_len + 4..];
        let content_len = find(rest, delimiter.as_bytes())?;
        parts.push(Part {
            name,
            file_name,
            content: &rest[..content_len],
        });
        rest = &rest[content_len + delimiter.len()..];
    }
}

/// Where `needle` begins.
pub(super) fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    let first = *needle.first()?;
    let mut from = 0;
    loop {
        // Looks for one byte first: whole firmware files are searched, in unoptimized tests as well.
        let at = from + haystack.get(from..)?.iter().position(|byte| *byte == first)?;
        if haystack[at..].starts_with(needle) {
            return Some(at);
        }
        from = at + 1;
    }
}

/// Field name and file name out of a part's headers.
fn disposition(head: &[u8]) -> Option<(&str, Option<&str>)> {
    let head = std::str::from_utf8(head).ok()?;
    let line = head
        .split("\r\n")
        .find(|line| line.to_ascii_lowercase().starts_with("content-disposition:"))?;
    let mut name = None;
    let mut file_name = None;
    for parameter in line.split(';').skip(1) {
        match parameter.trim().split_once('=') {
            Some(("name", value)) => name = Some(value.trim_matches('"')),
            Some(("filename", value)) => file_name = Some(value.trim_matches('"')),
            _ => {}
        }
    }
    Some((name?, file_name))
}

fn percent_decoded(text: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        let escape = (*first == b'%')
            .then(|| tail.get(..2).and_then(|digits| hex::decode(digits).ok()))
            .flatten();
        if let Some(byte) = escape {
            decoded.extend(byte);
            rest = &tail[2..];
        } else {
            decoded.push(if *first == b'+' { b' ' } else { *first });
            rest = tail;
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urlencoded_values_are_decoded() {
        let body = b"1=user&2=p%26ss+%e4%3D%";
        assert_eq!(urlencoded(body, "1").as_deref(), Some("user"));
        assert_eq!(urlencoded(body, "2").as_deref(), Some("p&ss \u{FFFD}=%"));
        assert_eq!(urlencoded(body, "4"), None);
        assert_eq!(urlencoded(b"11=x", "1"), None);
    }

    #[test]
    fn multipart_bodies_are_split_into_parts() {
        let body = b"--xx\r\nContent-Disposition: form-data; name=\"11111\"; filename=\"a.mbin\"\r\n\
            Content-Type: application/octet-stream\r\n\r\n\r\n--x\r\n\r\n--xx\r\n\
            content-disposition: form-data; name=\"1\"\r\n\r\nuser\r\n--xx--\r\n";
        let file = Part {
            name: "11111",
            file_name: Some("a.mbin"),
            content: b"\r\n--x\r\n",
        };
        let field = Part {
            name: "1",
            file_name: None,
            content: b"user",
        };
        assert_eq!(multipart(body, "xx").unwrap(), [file, field]);
    }

    #[test]
    fn broken_multipart_bodies_are_none() {
        for body in [
            "",
            "--xx",
            "--xx\r\n",
            "--xx\r\nA: b\r\n\r\nc\r\n--xx--",
            "xx",
            "1=user&2=user",
        ] {
            assert_eq!(multipart(body.as_bytes(), "xx"), None, "{body:?}");
        }
        let cut = "--xx\r\nContent-Disposition: form-data; name=\"11111\"\r\n\r\nabc";
        assert_eq!(multipart(cut.as_bytes(), "xx"), None);
    }

    #[test]
    fn only_multipart_types_have_a_boundary() {
        assert_eq!(boundary("multipart/form-data; boundary=--x"), Some("--x"));
        assert_eq!(boundary("multipart/form-data; boundary=\"a b\""), Some("a b"));
        assert_eq!(boundary("multipart/form-data"), None);
        assert_eq!(boundary("application/x-www-form-urlencoded; boundary=x"), None);
    }
}
