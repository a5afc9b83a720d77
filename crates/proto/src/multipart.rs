//! A `multipart/form-data` body with exactly one file part (RFC 7578), as the small web servers of devices take it.
//!
//! One part and no more: a Komfovent controller refuses firmware that comes with further fields, and Arduino's
//! `WebServer` runs its upload code for every file part.

use thiserror::Error;

/// Longest boundary (RFC 2046, section 5.1.1).
const BOUNDARY_MAX_LEN: usize = 70;

/// What goes around the file's bytes: the body is `head`, the file, `tail`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Multipart {
    /// Everything before the first byte of the file.
    pub head: Vec<u8>,
    /// Everything after the last byte of the file.
    pub tail: Vec<u8>,
    boundary: String,
}

/// Why a body cannot be built. Nothing is escaped: no two servers agree on how.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MultipartError {
    /// Not 1 to 70 letters, digits or `-_.+'`, which need no quotes in the header.
    #[error("building the upload: the boundary is not 1 to 70 plain characters")]
    Boundary,
    /// Empty, or with a quote, a backslash or a control character.
    #[error(
        "building the upload: the field name is empty or contains a quote, backslash or control character"
    )]
    Field,
    /// Empty, or with a quote, a backslash or a control character.
    #[error(
        "building the upload: the file name is empty or contains a quote, backslash or control character"
    )]
    FileName,
    /// Empty, or with anything but printable ASCII.
    #[error("building the upload: the content type is empty or not printable ASCII")]
    ContentType,
}

impl Multipart {
    /// Builds the frame around one file.
    ///
    /// `boundary` must not occur in the file: let it contain 16 or more random characters.
    pub fn one_file(
        boundary: &str,
        field: &str,
        file_name: &str,
        content_type: &str,
    ) -> Result<Self, MultipartError> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.+'".contains(&byte);
        if boundary.is_empty() || boundary.len() > BOUNDARY_MAX_LEN || !boundary.bytes().all(is_plain) {
            return Err(MultipartError::Boundary);
        }
        if !is_quotable(field) {
            return Err(MultipartError::Field);
        }
        if !is_quotable(file_name) {
            return Err(MultipartError::FileName);
        }
        if content_type.is_empty() || !content_type.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            return Err(MultipartError::ContentType);
        }
        let head = format!(
            "--{boundary}\r\n\
             Content-Disposition: form-data; name=\"{field}\"; filename=\"{file_name}\"\r\n\
             Content-Type: {content_type}\r\n\
             \r\n"
        );
        let tail = format!("\r\n--{boundary}--\r\n");
        Ok(Self {
            head: head.into_bytes(),
            tail: tail.into_bytes(),
            boundary: boundary.to_owned(),
        })
    }

    /// Returns the value of `Content-Length` for a file of this many bytes.
    pub fn len(&self, body_len: u64) -> u64 {
        (self.head.len() + self.tail.len()) as u64 + body_len
    }

    /// Returns the value of the request's `Content-Type`.
    pub fn content_type_header(&self) -> String {
        format!("multipart/form-data; boundary={}", self.boundary)
    }
}

fn is_quotable(name: &str) -> bool {
    !name.is_empty() && !name.chars().any(|c| c.is_control() || matches!(c, '"' | '\\'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDARY: &str = "----WebKitFormBoundary5RkmKlDPbZNgDa48";

    fn one_file(field: &str, file_name: &str, content_type: &str) -> Result<Multipart, MultipartError> {
        Multipart::one_file(BOUNDARY, field, file_name, content_type)
    }

    #[test]
    fn captured_komfovent_upload_is_218_bytes_longer_than_its_file() {
        let multipart = one_file(
            "11111",
            "C6_1_5_44_70_P1_1_1_5_46.mbin",
            "application/octet-stream",
        )
        .unwrap();
        assert_eq!(multipart.len(1_123_678), 1_123_896);
        assert_eq!(
            multipart.content_type_header(),
            "multipart/form-data; boundary=----WebKitFormBoundary5RkmKlDPbZNgDa48"
        );
    }

    #[test]
    fn body_is_exact_to_the_line_end() {
        let multipart = Multipart::one_file("b", "firmware", "mini.bin", "application/octet-stream").unwrap();
        assert_eq!(
            multipart.head,
            b"--b\r\nContent-Disposition: form-data; name=\"firmware\"; filename=\"mini.bin\"\r\n\
              Content-Type: application/octet-stream\r\n\r\n"
        );
        assert_eq!(multipart.tail, b"\r\n--b--\r\n");
        assert_eq!(
            multipart.len(0),
            (multipart.head.len() + multipart.tail.len()) as u64
        );
    }

    #[test]
    fn names_that_could_break_out_are_refused() {
        for name in [
            "",
            "a\"b",
            "a\\b",
            "a\r\nX: y",
            "a\nb",
            "a\0b",
            "a\u{85}b",
            "a\x7fb",
        ] {
            assert_eq!(one_file(name, "f", "t"), Err(MultipartError::Field), "{name:?}");
            assert_eq!(
                one_file("f", name, "t"),
                Err(MultipartError::FileName),
                "{name:?}"
            );
        }
        assert!(one_file("f", "įrenginys; v=1.bin", "t").is_ok());
    }

    #[test]
    fn content_type_with_a_line_end_is_refused() {
        for content_type in ["", "text/plain\r\nX: y", "t\n", "ä"] {
            assert_eq!(
                one_file("f", "f", content_type),
                Err(MultipartError::ContentType),
                "{content_type:?}"
            );
        }
    }

    #[test]
    fn boundary_that_needs_quotes_is_refused() {
        for boundary in ["", "a b", "a\"", "a;b", "a\r\n", "a/b", &"x".repeat(71)] {
            let multipart = Multipart::one_file(boundary, "f", "f", "t");
            assert_eq!(multipart, Err(MultipartError::Boundary), "{boundary:?}");
        }
        assert!(Multipart::one_file(&"x".repeat(70), "f", "f", "t").is_ok());
    }
}
