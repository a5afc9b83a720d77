//! Where `!secret NAME` and `!env_var NAME` find their values.

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::error::{Problem, quoted};
use super::read::nearest;
use super::yaml::{self, Kind, Node, Reference, Scalar};

/// The file beside the configuration, as Home Assistant names it.
const FILE_NAME: &str = "secrets.yaml";
/// In how many folders above the configuration's own it is looked for as well.
const N_PARENTS: usize = 3;

/// Where the values come from that a configuration refers to.
pub struct Sources {
    /// The configuration, as errors name it.
    pub(super) file: PathBuf,
    /// What a relative path in it starts from.
    pub(super) folder: PathBuf,
    files: Vec<SecretsFile>,
    environment: Environment,
}

#[derive(Debug)]
enum Environment {
    OfProcess,
    Given(BTreeMap<String, String>),
}

struct SecretsFile {
    path: PathBuf,
    content: Content,
}

enum Content {
    /// Read when the first secret is asked for.
    NotRead,
    Missing,
    /// Why none of its values can be used, for a person.
    Unusable(String),
    Read {
        values: BTreeMap<String, Option<String>>,
        mode: u32,
    },
}

/// A file whose secrets were used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsedFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its permissions, as `chmod` takes them.
    pub mode: u32,
}

impl Sources {
    /// What belongs to this file: `secrets.yaml` beside it and in the three folders above, and the environment.
    pub fn beside(file: &Path) -> Self {
        let absolute = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        let folder = absolute.parent().unwrap_or(Path::new("/")).to_owned();
        let files = folder.ancestors().take(N_PARENTS + 1);
        Self {
            file: file.to_owned(),
            files: files
                .map(|folder| SecretsFile {
                    path: folder.join(FILE_NAME),
                    content: Content::NotRead,
                })
                .collect(),
            folder,
            environment: Environment::OfProcess,
        }
    }

    /// No secrets, and these variables instead of the process's own: reads nothing from anywhere.
    pub fn given(environment: BTreeMap<String, String>) -> Self {
        Self {
            file: PathBuf::from("reflash.yaml"),
            folder: PathBuf::from("/"),
            files: Vec::new(),
            environment: Environment::Given(environment),
        }
    }

    /// The files whose secrets were read.
    pub(super) fn used(&self) -> Vec<UsedFile> {
        let read = self.files.iter().filter_map(|file| match &file.content {
            Content::Read { mode, .. } => Some(UsedFile {
                path: file.path.clone(),
                mode: *mode,
            }),
            _ => None,
        });
        read.collect()
    }

    /// Puts the values into the tree.
    pub(super) fn resolve(&mut self, node: &mut Node, problems: &mut Vec<Problem>) {
        match &mut node.kind {
            Kind::Null | Kind::Scalar(_) => {}
            Kind::List(items) => {
                for item in items {
                    self.resolve(item, problems);
                }
            }
            Kind::Map(entries) => {
                for (_, value) in entries {
                    self.resolve(value, problems);
                }
            }
            Kind::Reference(reference) => {
                let is_secret = matches!(reference, Reference::Secret(_));
                let found = match reference {
                    Reference::Secret(name) => self.secret(name.trim()),
                    Reference::Environment(text) => self.variable(text.trim()),
                };
                node.kind = match found {
                    Ok(Some(text)) => Kind::Scalar(Scalar::from_elsewhere(text)),
                    Ok(None) => Kind::Null,
                    Err((text, help)) => {
                        let problem = Problem::at(node.at, text, help);
                        // The default of a variable may be a password.
                        problems.push(if is_secret { problem.shown() } else { problem });
                        Kind::Null
                    }
                };
            }
        }
    }

    fn secret(&mut self, name: &str) -> Result<Option<String>, (String, String)> {
        if name.is_empty() {
            let text = "`!secret` stands here without a name".to_owned();
            return Err((text, "write for example `!secret ota_password`".to_owned()));
        }
        let mut known: Vec<String> = Vec::new();
        let mut read: Vec<String> = Vec::new();
        for file in &mut self.files {
            file.read();
            match &file.content {
                Content::Read { values, .. } => {
                    if let Some(value) = values.get(name) {
                        return value.clone().map(Some).ok_or_else(|| {
                            let text = format!(
                                "the secret {} in {} is not a single value",
                                quoted(name),
                                file.path.display()
                            );
                            (text, "write `name: value` there".to_owned())
                        });
                    }
                    known.extend(values.keys().cloned());
                    read.push(file.path.display().to_string());
                }
                // What cannot be read may be the one that holds it: going on to the next would take another's value.
                Content::Unusable(why) => {
                    let text = format!("the secret {} cannot be looked up: {why}", quoted(name));
                    return Err((text, format!("mend {}", file.path.display())));
                }
                Content::Missing | Content::NotRead => {}
            }
        }
        let text = match read.as_slice() {
            [] => format!("there is no {FILE_NAME} for the secret {}", quoted(name)),
            files => format!("there is no secret {} in {}", quoted(name), files.join(" or ")),
        };
        let near = nearest(name, known.iter().map(String::as_str));
        let help = match (near, self.files.first()) {
            (Some(near), _) => format!("did you mean `{near}`?"),
            (None, Some(file)) => format!(
                "add a line `{}: …` to {}",
                super::error::printable(name, 60),
                file.path.display()
            ),
            (None, None) => "write the value itself".to_owned(),
        };
        Err((text, help))
    }

    fn variable(&self, text: &str) -> Result<Option<String>, (String, String)> {
        let (name, default) = match text.split_once(char::is_whitespace) {
            Some((name, default)) => (name, Some(default.trim())),
            None => (text, None),
        };
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if name.is_empty() || !name.bytes().all(fits) {
            let text = "`!env_var` stands here without the name of a variable".to_owned();
            return Err((text, "write for example `!env_var OTA_PASSWORD`".to_owned()));
        }
        let value = match &self.environment {
            Environment::OfProcess => std::env::var(name).ok(),
            Environment::Given(variables) => variables.get(name).cloned(),
        };
        if let Some(value) = value.or_else(|| default.map(ToOwned::to_owned)) {
            return Ok(Some(value));
        }
        let text = format!("the environment has no variable `{name}`");
        let names: Vec<String> = match &self.environment {
            Environment::OfProcess => std::env::vars_os()
                .filter_map(|(name, _)| name.into_string().ok())
                .collect(),
            Environment::Given(variables) => variables.keys().cloned().collect(),
        };
        let help = match nearest(name, names.iter().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => {
                format!("set it where the server is started, or give a default: `!env_var {name} default`")
            }
        };
        Err((text, help))
    }
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

impl SecretsFile {
    fn read(&mut self) {
        if matches!(self.content, Content::NotRead) {
            self.content = content_of(&self.path);
        }
    }
}

fn content_of(path: &Path) -> Content {
    let (text, mode) = match super::read_file(path) {
        Ok(read) => read,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Content::Missing,
        Err(error) => return Content::Unusable(format!("{}: {error}", path.display())),
    };
    let mut problems = Vec::new();
    let mut root = yaml::read(&text, &mut problems);
    if let Some(problem) = problems.first() {
        // Whatever stands in this file is secret, so its lines are not shown.
        let place = problem
            .at
            .map_or(String::new(), |at| format!(":{}:{}", at.line, at.column));
        return Content::Unusable(format!(
            "{}{place}: {}",
            path.display(),
            without_quotes(&problem.text)
        ));
    }
    let mut values = BTreeMap::new();
    match root.take().map(|node| node.kind) {
        None | Some(Kind::Null) => {}
        Some(Kind::Map(entries)) => {
            for (key, value) in entries {
                let value = match value.kind {
                    Kind::Scalar(scalar) => Some(scalar.text),
                    _ => None,
                };
                values.insert(key.text, value);
            }
        }
        Some(_) => return Content::Unusable(format!("{} holds no `name: value`", path.display())),
    }
    Content::Read { values, mode }
}

/// A message without what it quotes from the file.
fn without_quotes(text: &str) -> String {
    text.split('`').step_by(2).collect::<Vec<_>>().join("…")
}

/// The permission bits of a file.
pub(super) fn mode_of(metadata: &std::fs::Metadata) -> u32 {
    metadata.permissions().mode() & 0o7777
}
