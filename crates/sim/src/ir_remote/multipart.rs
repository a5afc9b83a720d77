//! Reads `multipart/form-data` as it streams by; keeps no more than one read.

/// Longest headers of a part, bytes. Guess: any real one is below 300.
const HEADERS_MAX_LEN: usize = 8192;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before the first delimiter, or in a part that is no file.
    Skipping,
    Delimited,
    Headers,
    File,
    Done,
}

/// A form that is being read.
pub(super) struct Form {
    /// Line break, two dashes, boundary.
    delimiter: Vec<u8>,
    buffer: Vec<u8>,
    place: Place,
}

/// What comes next in the form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A file part begins; the field's name does not matter.
    Begin,
    /// So many bytes of it are at the front of [`Form::front`]; [`Form::consume`] them.
    Bytes(usize),
    /// The file part ends.
    End,
    /// [`Form::push`] more.
    NeedMore,
    /// The form ends, or is none.
    Done,
}

impl Form {
    pub(super) fn new(boundary: &str) -> Self {
        let delimiter = format!("\r\n--{boundary}").into_bytes();
        // The first delimiter has no line break before it.
        Self {
            delimiter,
            buffer: b"\r\n".to_vec(),
            place: Place::Skipping,
        }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    pub(super) fn front(&self, n: usize) -> &[u8] {
        &self.buffer[..n]
    }

    pub(super) fn consume(&mut self, n: usize) {
        self.buffer.drain(..n);
    }

    pub(super) fn step(&mut self) -> Step {
        loop {
            match self.place {
                Place::Skipping => {
                    let Some(at) = find(&self.buffer, &self.delimiter) else {
                        self.consume(self.n_certain());
                        return Step::NeedMore;
                    };
                    self.pass_delimiter(at);
                }
                Place::Delimited => match self.buffer.get(..2) {
                    None => return Step::NeedMore,
                    Some(b"\r\n") => self.place = Place::Headers,
                    Some(_) => self.place = Place::Done,
                },
                Place::Headers => match find(&self.buffer, b"\r\n\r\n") {
                    Some(at) => {
                        let headers = String::from_utf8_lossy(&self.buffer[..at]).to_ascii_lowercase();
                        self.consume(at + 4);
                        if headers.contains("filename=") {
                            self.place = Place::File;
                            return Step::Begin;
                        }
                        self.place = Place::Skipping;
                    }
                    None if self.buffer.len() > HEADERS_MAX_LEN => self.place = Place::Done,
                    None => return Step::NeedMore,
                },
                Place::File => match find(&self.buffer, &self.delimiter) {
                    Some(0) => {
                        self.pass_delimiter(0);
                        return Step::End;
                    }
                    Some(at) => return Step::Bytes(at),
                    None if self.n_certain() > 0 => return Step::Bytes(self.n_certain()),
                    None => return Step::NeedMore,
                },
                Place::Done => return Step::Done,
            }
        }
    }

    /// Bytes in front that no delimiter can begin in.
    fn n_certain(&self) -> usize {
        (self.buffer.len() + 1).saturating_sub(self.delimiter.len())
    }

    fn pass_delimiter(&mut self, at: usize) {
        self.consume(at + self.delimiter.len());
        self.place = Place::Delimited;
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(at) = bytes[from..].iter().position(|byte| *byte == what[0]) {
        from += at;
        if bytes[from..].starts_with(what) {
            return Some(from);
        }
        from += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The files in a form that arrives in pieces, and whether its end was seen.
    fn read(form: &[u8], piece: usize) -> (Vec<Vec<u8>>, bool) {
        let mut reader = Form::new("XyZ");
        let mut files: Vec<Vec<u8>> = Vec::new();
        let mut n_ended = 0;
        let mut pieces = form.chunks(piece);
        loop {
            match reader.step() {
                Step::Begin => files.push(Vec::new()),
                Step::Bytes(n) => {
                    files.last_mut().unwrap().extend_from_slice(reader.front(n));
                    reader.consume(n);
                }
                Step::End => n_ended += 1,
                Step::Done => return (files, n_ended > 0),
                Step::NeedMore => match pieces.next() {
                    Some(bytes) => reader.push(bytes),
                    None => return (files, false),
                },
            }
        }
    }

    #[test]
    fn a_file_is_found_whatever_the_field_and_the_pieces() {
        let file = b"\xE9\r\n--Xy\r\n--\r\n\r\nbytes\r\n";
        let mut form =
            b"--XyZ\r\nContent-Disposition: form-data; name=\"note\"\r\n\r\nnot a file\r\n--XyZ\r\n".to_vec();
        form.extend(
            b"Content-Disposition: form-data; name=\"what\"; filename=\"a.bin\"\r\nContent-Type: x/y\r\n\r\n",
        );
        form.extend(file);
        form.extend(b"\r\n--XyZ--\r\n");
        for piece in [1, 2, 3, 50, 1000] {
            assert_eq!(read(&form, piece), (vec![file.to_vec()], true), "{piece}");
        }
    }

    #[test]
    fn a_cut_form_has_no_end() {
        let form =
            b"--XyZ\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a\"\r\n\r\nabcdefghijklmnop";
        assert!(!read(form, 7).1);
        assert_eq!(read(b"no form at all", 3), (vec![], false));
    }
}
