//! Text to a tree that remembers where everything stands, and nothing cleverer than that.
//!
//! A tree of our own rather than `serde`: only so can a value keep its place and its tag, so that a mistake is shown
//! where it is, `!secret ota` is never taken for the text `ota` (../shared/DEPENDENCIES.md 2.4), and a value is shown
//! only when it is known to be no secret.
//! What can grow is refused rather than counted: anchors, aliases, merges, directives, further documents (T19).

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError, Span, Tag};

use super::error::{At, Problem};

/// The longest file that is read, bytes. Guess: 1,000 devices take 200 kB.
pub(super) const MAX_LEN_BYTES: usize = 1024 * 1024;
/// How deep lists and mappings may be nested in each notation; the deepest of ours is four (RELIABILITY.md T19).
const MAX_DEPTH: usize = 32;
/// How many values a file may hold. Guess: 1,000 devices with every key are 20,000.
const MAX_NODES: usize = 100_000;

/// One value and where it stands.
pub(super) struct Node {
    pub(super) at: At,
    pub(super) kind: Kind,
}

pub(super) enum Kind {
    Null,
    Scalar(Scalar),
    /// A value that stands elsewhere; replaced before anything is read.
    Reference(Reference),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

pub(super) struct Scalar {
    pub(super) text: String,
    /// It is never shown: it came from a file of secrets or the environment, or covers several lines.
    pub(super) hidden: bool,
    /// It stands in the file itself.
    pub(super) is_here: bool,
}

impl Scalar {
    fn here(text: String) -> Self {
        Self {
            text,
            hidden: false,
            is_here: true,
        }
    }

    pub(super) fn from_elsewhere(text: String) -> Self {
        Self {
            text,
            hidden: true,
            is_here: false,
        }
    }
}

pub(super) enum Reference {
    /// `!secret NAME`.
    Secret(String),
    /// `!env_var NAME default`.
    Environment(String),
}

pub(super) struct Key {
    pub(super) text: String,
    pub(super) at: At,
}

/// Reads one document; none for an empty one.
///
/// What is wrong is added to `problems`, and what can be read is read all the same, so that one look shows everything.
pub(super) fn read(text: &str, problems: &mut Vec<Problem>) -> Option<Node> {
    if text.len() > MAX_LEN_BYTES {
        problems.push(Problem::anywhere(
            format!("the file is {} bytes long", text.len()),
            format!("a configuration has at most {MAX_LEN_BYTES} bytes; is this the right file?"),
        ));
        return None;
    }
    let options = granit_parser::options! {
        disallow_directives: true,
        emit_unresolved_aliases: true,
        emit_comments: false,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    };
    let mut reading = Reading {
        parser: Parser::new_from_str_with_options(text, options),
        problems,
        n_nodes: 0,
    };
    // A file that cannot be read to its end is not half a configuration.
    reading.document().ok().flatten()
}

/// Told already; nothing after it can be read.
struct Stop;

struct Reading<'t, 'p> {
    parser: Parser<'t, granit_parser::StrInput<'t>>,
    problems: &'p mut Vec<Problem>,
    n_nodes: usize,
}

impl<'t> Reading<'t, '_> {
    fn next(&mut self) -> Result<(Event<'t>, Span), Stop> {
        match self.parser.next() {
            Some(Ok(next)) => Ok(next),
            Some(Err(error)) => {
                self.problems.push(syntax(&error));
                Err(Stop)
            }
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn document(&mut self) -> Result<Option<Node>, Stop> {
        let mut root = None;
        let mut n_documents = 0;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => return Ok(root),
                Event::DocumentStart(..) => {
                    n_documents += 1;
                    if n_documents > 1 {
                        let text = "a second document begins here";
                        let help = "remove the line `---`: a configuration is one document";
                        self.problems.push(Problem::at(at(&span), text, help));
                        return Err(Stop);
                    }
                    let (event, span) = self.next()?;
                    root = Some(self.node(event, span)?);
                }
                _ => {}
            }
        }
    }

    fn node(&mut self, event: Event<'t>, span: Span) -> Result<Node, Stop> {
        self.n_nodes += 1;
        if self.n_nodes > MAX_NODES {
            let text = format!("more than {MAX_NODES} values");
            self.problems
                .push(Problem::at(at(&span), text, "is this the right file?"));
            return Err(Stop);
        }
        let here = at(&span);
        let kind = match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_anchor(anchor, here);
                let mut kind = self.scalar(text.into_owned(), style, tag.as_deref(), &span);
                // A missing colon or quote joins a value with the line below, where a password may stand.
                if let Kind::Scalar(scalar) = &mut kind {
                    scalar.hidden |= span.start.line() != span.end.line();
                }
                kind
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.refuse_anchor(anchor, here);
                let refused = self.refuse_tag(tag.as_deref(), &span);
                let mut items = Vec::new();
                loop {
                    let (event, span) = self.next()?;
                    if event == Event::SequenceEnd {
                        break;
                    }
                    items.push(self.node(event, span)?);
                }
                if refused { Kind::Null } else { Kind::List(items) }
            }
            Event::MappingStart(_, anchor, tag) => {
                self.refuse_anchor(anchor, here);
                let refused = self.refuse_tag(tag.as_deref(), &span);
                let map = self.map()?;
                if refused { Kind::Null } else { map }
            }
            Event::Alias(_) | Event::UnresolvedAlias(_) => {
                self.refuse_anchor(1, here);
                Kind::Null
            }
            _ => Kind::Null,
        };
        Ok(Node { at: here, kind })
    }

    fn map(&mut self) -> Result<Kind, Stop> {
        let mut entries: Vec<(Key, Node)> = Vec::new();
        let mut seen: std::collections::HashMap<String, usize> = std::collections::HashMap::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                return Ok(Kind::Map(entries));
            }
            let here = at(&span);
            let key = match self.node(event, span)?.kind {
                Kind::Scalar(scalar) => Some(scalar.text),
                // A key such as `null` or `~` is a mistake like any other unknown one.
                Kind::Null => Some(String::new()),
                Kind::Reference(_) | Kind::List(_) | Kind::Map(_) => None,
            };
            let (event, span) = self.next()?;
            let value = self.node(event, span)?;
            let Some(text) = key else {
                let help = "write one word before the colon; a tag such as `!secret` stands after it";
                self.problems
                    .push(Problem::at(here, "this key is not a plain word", help));
                continue;
            };
            if let Some(line) = seen.get(&text) {
                let text = format!(
                    "the key {} stands here a second time",
                    super::error::quoted_key(&text)
                );
                let help = format!("remove one of the two; the first is in line {line}");
                self.problems.push(Problem::at(here, text, help));
                continue;
            }
            seen.insert(text.clone(), here.line);
            entries.push((Key { text, at: here }, value));
        }
    }

    fn scalar(&mut self, text: String, style: ScalarStyle, tag: Option<&Tag>, span: &Span) -> Kind {
        if let Some(tag) = tag {
            match (tag.original_handle(), tag.suffix()) {
                ("!", "secret") => return Kind::Reference(Reference::Secret(text)),
                ("!", "env_var") => return Kind::Reference(Reference::Environment(text)),
                // It says what is so anyway: everything is text until it is read.
                _ if tag.core_suffix() == Some("str") => {
                    return Kind::Scalar(Scalar::here(text));
                }
                _ => {
                    self.refuse_tag(Some(tag), span);
                    return Kind::Null;
                }
            }
        }
        // What is empty in YAML 1.2's core schema; quoted it is a text.
        let is_null =
            style == ScalarStyle::Plain && matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL");
        if is_null {
            return Kind::Null;
        }
        Kind::Scalar(Scalar::here(text))
    }

    fn refuse_anchor(&mut self, anchor: usize, here: At) {
        if anchor == 0 {
            return;
        }
        let text = "anchors and aliases (`&name`, `*name`) are not read";
        let help = "write the value out, or put it in quotes if it is meant to begin with `&` or `*`";
        self.problems.push(Problem::at(here, text, help));
    }

    /// Whether there was one; its value is then as good as none, and nothing else is found fault with.
    fn refuse_tag(&mut self, tag: Option<&Tag>, span: &Span) -> bool {
        let Some(tag) = tag else { return false };
        let here = span.tag_start().map_or(at(span), |start| At {
            line: start.line(),
            column: start.col() + 1,
            len: 1,
        });
        // A password may begin with `!`, so nothing but what is known is named.
        let (text, help) = match tag.suffix() {
            "secret" | "env_var" => (
                "`!secret` and `!env_var` stand before a single word",
                "write for example `password: !secret name`",
            ),
            suffix if suffix.starts_with("include") => (
                "includes are not read",
                "write the content of the other file here",
            ),
            _ => (
                "a word that begins with `!` is a tag, and only `!secret name` and `!env_var NAME` are read",
                "put the value in quotes if it is meant to begin with `!`",
            ),
        };
        self.problems.push(Problem::at(here, text, help));
        true
    }
}

fn at(span: &Span) -> At {
    let len = if span.end.line() == span.start.line() {
        span.end.col().saturating_sub(span.start.col())
    } else {
        1
    };
    At {
        line: span.start.line(),
        column: span.start.col() + 1,
        len: len.max(1),
    }
}

/// Says what is wrong with the notation, without a word of what stands there.
fn syntax(error: &ScanError) -> Problem {
    let marker = error.marker();
    let here = At {
        line: marker.line(),
        column: marker.col() + 1,
        len: 1,
    };
    let (text, help) = match error.kind() {
        ErrorKind::UnexpectedCharacter { .. } => (
            "this character cannot begin a value".to_owned(),
            "put the value in quotes",
        ),
        ErrorKind::TabNotAllowed | ErrorKind::TabInBlockIndentation => (
            "a tab stands where only spaces may".to_owned(),
            "indent with spaces",
        ),
        ErrorKind::DirectiveDisallowed => (
            "a directive (`%…`) is not read".to_owned(),
            "remove the line, or put the value in quotes if it is meant to begin with `%`",
        ),
        ErrorKind::Custom(_) | ErrorKind::InputIo { .. } | ErrorKind::InputDecoding { .. } => (
            "this cannot be read as YAML".to_owned(),
            "look at the line above as well",
        ),
        kind => (
            format!("this cannot be read as YAML: {kind}"),
            "look at indentation, quotes, brackets and the space after each colon, also in the line above",
        ),
    };
    Problem::at(here, text, help).syntax()
}
