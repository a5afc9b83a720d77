//! The watch folder as it is read: which files lie in it, and which of them have stopped changing.
//!
//! Everything here blocks. Files are opened below the folder's own descriptor, and a link that leads out of it is not followed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use model::id::Sha256;
use model::image::MAX_IMAGE_LEN_BYTES;
use proto::content_disposition;
use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::judge::NOTES_MAX_LEN_BYTES;
use super::settings::Pace;
use crate::views::{FolderView, NoteView};

/// Files looked at. Guess: ten times what the owner of 1,000 devices keeps.
const N_FILES: usize = 1000;
/// An alias of another file, as the founding document's automations name it.
const LATEST: &str = "latest.bin";
/// Endings of images, in any case.
const SUFFIXES: [&str; 2] = [".bin", ".mbin"];

/// What is remembered of the folder from one reading to the next.
#[derive(Debug, Default)]
pub(super) struct Folder {
    files: BTreeMap<String, Seen>,
    trouble: Option<String>,
    ignored: Vec<NoteView>,
    /// Which folder it is: another one may have been mounted in its place.
    identity: Option<(u64, u64)>,
}

/// One file.
#[derive(Clone, Debug)]
struct Seen {
    stamp: Stamp,
    /// Since when it has not changed, on the clock that starts at boot.
    since: Duration,
    /// The image that it is, once it has been taken.
    taken: Option<Sha256>,
    /// It may be a part of a file: taken only after a longer wait.
    doubtful: bool,
    /// The notes beside it, when they were read.
    notes: Option<Stamp>,
}

/// What changes with a file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    len_bytes: i64,
    changed_ns: (i64, i64, i64, i64),
}

/// A file as the folder lists it.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    name: String,
    stamp: Stamp,
    notes: Option<(String, Stamp)>,
}

/// One reading of the folder.
#[derive(Debug)]
pub(super) struct Reading {
    identity: (u64, u64),
    files: Vec<Listed>,
    ignored: Vec<NoteView>,
}

/// A file to be read now.
#[derive(Clone, Debug)]
pub(super) struct Due {
    pub(super) name: String,
    stamp: Stamp,
    /// Whether it has been waited for longer already.
    pub(super) is_old: bool,
}

/// What has become of the folder.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// As it was.
    None,
    /// It cannot be read any more.
    Lost,
    /// It can be read again.
    Found,
}

impl Folder {
    /// Takes in a reading; the files that have not changed for long enough are due.
    pub(super) fn read(&mut self, reading: Reading, now: Duration, pace: &Pace) -> (Vec<Due>, Turn) {
        let turn = if self.trouble.take().is_some() {
            Turn::Found
        } else {
            Turn::None
        };
        self.identity = Some(reading.identity);
        self.ignored = reading.ignored;
        let mut files = BTreeMap::new();
        for listed in reading.files {
            let seen = match self.files.remove(&listed.name) {
                Some(seen) if seen.stamp == listed.stamp => seen,
                _ => Seen {
                    stamp: listed.stamp,
                    since: now,
                    taken: None,
                    doubtful: false,
                    notes: None,
                },
            };
            files.insert(listed.name, seen);
        }
        self.files = files;
        let mut due: Vec<Due> = self
            .files
            .iter()
            .filter(|(_, seen)| seen.taken.is_none() && seen.ready_at(pace) <= now)
            .map(|(name, seen)| Due {
                name: name.clone(),
                stamp: seen.stamp,
                is_old: seen.since + pace.settle_doubtful <= now,
            })
            .collect();
        // The alias last, when the file that it stands for is known.
        due.sort_by_key(|due| (due.name == LATEST, due.name.clone()));
        (due, turn)
    }

    /// How long until a file is due; none while nothing is waited for.
    pub(super) fn next_due(&self, now: Duration, pace: &Pace) -> Option<Duration> {
        self.files
            .values()
            .filter(|seen| seen.taken.is_none())
            .map(|seen| seen.ready_at(pace).saturating_sub(now))
            .min()
    }

    /// Another folder is watched from now on.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// The folder cannot be read.
    pub(super) fn lose(&mut self, trouble: String) -> Turn {
        let turn = if self.trouble.is_none() {
            Turn::Lost
        } else {
            Turn::None
        };
        self.trouble = Some(trouble);
        self.identity = None;
        turn
    }

    /// A file has been taken as this image.
    pub(super) fn take(&mut self, due: &Due, digest: Sha256) {
        self.change(due, |seen| seen.taken = Some(digest));
    }

    /// A file may be a part of one.
    pub(super) fn doubt(&mut self, due: &Due) {
        self.change(due, |seen| seen.doubtful = true);
    }

    /// A file cannot be taken now; it is tried again after a while.
    pub(super) fn put_off(&mut self, due: &Due, now: Duration, because: &str) {
        self.change(due, |seen| {
            seen.since = now;
            seen.doubtful = true;
        });
        self.ignored.push(NoteView {
            rule: "not-taken".to_owned(),
            text: format!("{}: {because}", due.name),
        });
    }

    fn change(&mut self, due: &Due, change: impl FnOnce(&mut Seen)) {
        let seen = self.files.get_mut(&due.name);
        if let Some(seen) = seen.filter(|seen| seen.stamp == due.stamp) {
            change(seen);
        }
    }

    /// The images whose notes have changed, with the file of the notes.
    pub(super) fn notes_due(&mut self, reading: &[(String, String, Stamp)]) -> Vec<(Sha256, String)> {
        let mut due = Vec::new();
        for (name, notes, stamp) in reading {
            let Some(seen) = self.files.get_mut(name) else {
                continue;
            };
            let Some(digest) = seen.taken else { continue };
            if seen.notes != Some(*stamp) {
                seen.notes = Some(*stamp);
                due.push((digest, notes.clone()));
            }
        }
        due
    }

    /// The image that a file is.
    pub(super) fn digest_of(&self, file_name: &str) -> Option<Sha256> {
        self.files.get(file_name)?.taken
    }

    /// A file that is this image.
    pub(super) fn file_of(&self, digest: Sha256) -> Option<String> {
        let mut files = self.files.iter();
        files
            .find(|(_, seen)| seen.taken == Some(digest))
            .map(|(name, _)| name.clone())
    }

    /// The images that lie in the folder; none while it cannot be read, or a file is still waited for.
    pub(super) fn all_taken(&self) -> Option<BTreeSet<Sha256>> {
        if self.trouble.is_some() || self.identity.is_none() {
            return None;
        }
        self.files.values().map(|seen| seen.taken).collect()
    }

    /// Which folder was read last.
    pub(super) fn identity(&self) -> Option<(u64, u64)> {
        self.identity
    }

    pub(super) fn view(&self, path: &Path) -> FolderView {
        let unread = (self.trouble.is_none() && self.identity.is_none())
            .then(|| "It has not been read yet.".to_owned());
        FolderView {
            path: path.display().to_string(),
            trouble: self.trouble.clone().or(unread),
            n_files: self.files.len() as u64,
            ignored: self.ignored.clone(),
        }
    }
}

impl Seen {
    fn ready_at(&self, pace: &Pace) -> Duration {
        let wait = if self.doubtful {
            pace.settle_doubtful
        } else {
            pace.settle
        };
        self.since + wait
    }
}

impl Stamp {
    fn of(stat: &Stat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            len_bytes: stat.st_size,
            changed_ns: (
                stat.st_mtime,
                stat.st_mtime_nsec.cast_signed(),
                stat.st_ctime,
                stat.st_ctime_nsec.cast_signed(),
            ),
        }
    }
}

impl Reading {
    /// The notes in it: the image's file, the notes' file, and what changes with it.
    pub(super) fn notes(&self) -> Vec<(String, String, Stamp)> {
        let notes = self.files.iter().filter_map(|listed| {
            let (name, stamp) = listed.notes.clone()?;
            Some((listed.name.clone(), name, stamp))
        });
        notes.collect()
    }
}

/// Lists the images of the folder.
pub(super) fn list(path: &Path) -> io::Result<Reading> {
    let folder = open_folder(path)?;
    let stat = rustix::fs::fstat(&folder)?;
    let mut names = BTreeSet::new();
    let mut ignored = Vec::new();
    let mut ignore = |name: &str, rule: &str, text: String| {
        // As many as there may be files: a folder full of rubbish is not to fill our memory.
        if ignored.len() < N_FILES {
            ignored.push(NoteView {
                rule: rule.to_owned(),
                text: format!("{} {text}", printable(name)),
            });
        }
    };
    for entry in Dir::read_from(&folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy();
        // Hidden files are those that programs write before they rename them.
        if name.starts_with('.') || !(is_image(&name) || name.ends_with(".md")) {
            continue;
        }
        if names.len() >= N_FILES {
            ignore(
                &name,
                "too-many",
                format!("is left out: only {N_FILES} files are looked at."),
            );
            break;
        }
        names.insert(name.into_owned());
    }
    let mut files = Vec::new();
    for name in names.iter().filter(|name| is_image(name)) {
        if content_disposition::last_component(name).as_deref() != Ok(name.as_str()) {
            ignore(
                name,
                "odd-name",
                "is left out for its name; give it a shorter or plainer one.".to_owned(),
            );
            continue;
        }
        match stat_below(&folder, name) {
            Ok(Some(stamp)) if stamp.len_bytes.cast_unsigned() <= MAX_IMAGE_LEN_BYTES => {
                let notes = sidecars(name)
                    .into_iter()
                    .filter(|sidecar| names.contains(sidecar))
                    .find_map(|sidecar| {
                        let stamp = stat_below(&folder, &sidecar).ok().flatten()?;
                        Some((sidecar, stamp))
                    });
                files.push(Listed {
                    name: name.clone(),
                    stamp,
                    notes,
                });
            }
            Ok(Some(stamp)) => ignore(
                name,
                "too-large",
                format!(
                    "has {} bytes, and no firmware has more than {MAX_IMAGE_LEN_BYTES}.",
                    stamp.len_bytes
                ),
            ),
            Ok(None) => ignore(name, "no-file", "is not a plain file.".to_owned()),
            Err(error) if is_gone(&error) => {}
            Err(error) => ignore(name, "unreadable", format!("cannot be read: {}.", reason(&error))),
        }
    }
    Ok(Reading {
        identity: (stat.st_dev, stat.st_ino),
        files,
        ignored,
    })
}

/// Reads a file that is due; none if it has changed since it was listed, or while it was read.
pub(super) fn read(path: &Path, due: &Due) -> io::Result<Option<Vec<u8>>> {
    let folder = open_folder(path)?;
    let mut file = match open_below(&folder, &due.name) {
        Ok(file) => file,
        Err(error) if is_gone(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let stamp = |file: &File| Ok::<_, io::Error>(Stamp::of(&rustix::fs::fstat(file)?));
    if stamp(&file)? != due.stamp {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    (&mut file)
        .take(MAX_IMAGE_LEN_BYTES + 1)
        .read_to_end(&mut bytes)?;
    let is_same = stamp(&file)? == due.stamp && bytes.len() as u64 == due.stamp.len_bytes.cast_unsigned();
    Ok(is_same.then_some(bytes))
}

/// Reads release notes, the first 64 KiB of them.
pub(super) fn read_notes(path: &Path, name: &str) -> io::Result<String> {
    let folder = open_folder(path)?;
    let file = open_below(&folder, name)?;
    let mut bytes = Vec::new();
    file.take(NOTES_MAX_LEN_BYTES as u64).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What the system says, for people.
pub(super) fn reason(error: &io::Error) -> String {
    match Errno::from_io_error(error) {
        Some(Errno::XDEV) => "it is a link that leads out of the folder".to_owned(),
        Some(Errno::LOOP) => "it is a link that leads nowhere, or to itself".to_owned(),
        _ => match error.kind() {
            io::ErrorKind::NotFound => "it does not exist".to_owned(),
            io::ErrorKind::PermissionDenied => "this user may not read it".to_owned(),
            io::ErrorKind::NotADirectory => "it is not a folder".to_owned(),
            _ => error.to_string(),
        },
    }
}

fn open_folder(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
}

/// Opens a file below the folder; links are followed as long as they do not lead out of it (RELIABILITY.md T17).
fn open_below(folder: &OwnedFd, name: &str) -> io::Result<File> {
    // Not blocking: a named pipe would keep us waiting for its other end.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let opened = match rustix::fs::openat2(folder, name, flags, Mode::empty(), resolve) {
        // A kernel before 5.6, or a sandbox that does not know the call: then no link is followed at all.
        Err(Errno::NOSYS | Errno::PERM) => {
            rustix::fs::openat(folder, name, flags | OFlags::NOFOLLOW, Mode::empty())
        }
        opened => opened,
    };
    Ok(File::from(opened?))
}

/// What changes with a file; none if it is no plain file.
fn stat_below(folder: &OwnedFd, name: &str) -> io::Result<Option<Stamp>> {
    let stat = rustix::fs::fstat(open_below(folder, name)?)?;
    let is_plain = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    Ok(is_plain.then(|| Stamp::of(&stat)))
}

fn is_image(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SUFFIXES.iter().any(|suffix| name.ends_with(suffix))
}

/// Where the notes of an image may lie: `NAME.md` for `NAME.bin`, or `NAME.bin.md`.
fn sidecars(name: &str) -> [String; 2] {
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    [format!("{stem}.md"), format!("{name}.md")]
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

fn printable(name: &str) -> String {
    name.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .take(120)
        .collect()
}
