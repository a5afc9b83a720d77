//! What a device or an image says its version is.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Version labels as the vendor writes them, in named parts: one for most devices, `controller` and `panel` for others.
///
/// Only the family that wrote them can say which of two is newer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Versions(Vec<(String, String)>);

impl Versions {
    /// One part.
    pub fn one(part: &str, text: impl Into<String>) -> Self {
        Self(vec![(part.to_owned(), text.into())])
    }

    /// The same with one more part.
    #[must_use]
    pub fn and(mut self, part: &str, text: impl Into<String>) -> Self {
        self.0.push((part.to_owned(), text.into()));
        self
    }

    /// The text of a part, if it has that part.
    pub fn part(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(part, _)| part == name)
            .map(|(_, text)| text.as_str())
    }

    /// All parts with their texts, in the order in which the family names them.
    pub fn parts(&self) -> Vec<(&str, &str)> {
        self.0
            .iter()
            .map(|(part, text)| (part.as_str(), text.as_str()))
            .collect()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (idx, (_, text)) in self.0.iter().enumerate() {
            if idx > 0 {
                f.write_str(" / ")?;
            }
            f.write_str(text)?;
        }
        Ok(())
    }
}

/// How an offered version stands to the installed one, by their labels alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Relation {
    /// The offered one is older.
    Older,
    /// They are the same.
    Same,
    /// The offered one is newer.
    Newer,
    /// One part is newer and another older.
    Mixed,
    /// The labels do not tell.
    Unknown,
}

impl Relation {
    /// The relation seen from the other side.
    #[must_use]
    pub fn reversed(self) -> Self {
        match self {
            Self::Older => Self::Newer,
            Self::Newer => Self::Older,
            Self::Same | Self::Mixed | Self::Unknown => self,
        }
    }
}
