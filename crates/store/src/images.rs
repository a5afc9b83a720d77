//! The image files, each named by what is in it.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use model::id::Sha256;
use model::image::{Image, MAX_IMAGE_LEN_BYTES};
use sqlx::Row;

use crate::Store;
use crate::error::{ImageError, StoreError};
use crate::folder;
use crate::inventory::decode;
use crate::open::is_full;

pub(crate) const TEMPORARY: &str = ".part-";

/// A name under which an image came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageName {
    /// The image.
    pub digest: Sha256,
    /// The file's name, without its folder.
    pub file_name: String,
    /// The image's length, bytes.
    pub len_bytes: u64,
    /// When it first came under this name, milliseconds since 1970.
    pub first_seen_wall_ms: i64,
}

impl Store {
    /// Keeps an image and its name. When this returns, both survive a power cut.
    ///
    /// A file that is there and whole is kept; a damaged one is replaced.
    pub async fn put_image(&self, image: &Image, wall_ms: i64) -> Result<(), ImageError> {
        let path = self.image_path(image.sha256());
        // One process at a time: what is unfinished then is nobody's, and may go; and nobody removes it meanwhile.
        let mut lock = self.lock_images(&path).await?;
        if !is_whole(&path, image.sha256()).await? {
            let (whole, to) = (image.clone(), path.clone());
            // The lock is held to the end of the write, even if nobody waits for it any more.
            lock = blocking(move || write(&to, &whole).map(|()| lock))
                .await
                .map_err(|source| failed(&path, source))?;
            if !is_whole(&path, image.sha256()).await? {
                return Err(ImageError::Corrupt {
                    digest: image.sha256(),
                    path,
                });
            }
        }
        self.put_image_name(image, wall_ms).await?;
        drop(lock);
        Ok(())
    }

    /// Reads an image and checks it once more; none where it is not stored. `file_name` is what the image is to be called.
    pub async fn image(&self, digest: Sha256, file_name: &str) -> Result<Option<Image>, ImageError> {
        let path = self.image_path(digest);
        let from = path.clone();
        let read = blocking(move || read(&from))
            .await
            .map_err(|source| failed(&path, source))?;
        match read {
            None => Ok(None),
            Some(bytes) => {
                let image = Image::new(file_name, bytes);
                if image.sha256() == digest {
                    Ok(Some(image))
                } else {
                    Err(ImageError::Corrupt { digest, path })
                }
            }
        }
    }

    /// The names under which an image came, the oldest first.
    pub async fn image_names(&self, digest: Sha256) -> Result<Vec<ImageName>, StoreError> {
        const DOING: &str = "reading the names of an image";
        let rows = sqlx::query(
            "select file_name, len_bytes, first_seen_ms from image_name where digest = $1 \
             order by first_seen_ms, file_name",
        )
        .bind(digest.to_string())
        .fetch_all(self.readers())
        .await
        .map_err(|source| StoreError::new(DOING, source))?;
        rows.iter()
            .map(|row| {
                let len_bytes: i64 = row.try_get("len_bytes")?;
                Ok(ImageName {
                    digest,
                    file_name: row.try_get("file_name")?,
                    len_bytes: u64::try_from(len_bytes).map_err(decode)?,
                    first_seen_wall_ms: row.try_get("first_seen_ms")?,
                })
            })
            .collect::<Result<_, sqlx::Error>>()
            .map_err(|source| StoreError::new(DOING, source))
    }

    async fn put_image_name(&self, image: &Image, wall_ms: i64) -> Result<(), StoreError> {
        let mut write = self.write("storing the name of an image").await?;
        sqlx::query(
            "insert into image_name (digest, file_name, len_bytes, first_seen_ms) values ($1, $2, $3, $4) \
             on conflict (digest, file_name) do nothing",
        )
        .bind(image.sha256().to_string())
        .bind(image.file_name())
        .bind(image.len_bytes().cast_signed())
        .bind(wall_ms)
        .execute(write.connection())
        .await
        .map_err(write.failed())?;
        write.commit().await
    }

    /// Waits until no other process puts or removes images. `path` is what it is for.
    pub(crate) async fn lock_images(&self, path: &Path) -> Result<fs::File, ImageError> {
        let images = self.folder().join("images");
        folder::make(&images).map_err(|source| failed(path, source))?;
        folder::lock(&images.join("put.lock"))
            .await
            .map_err(|source| failed(path, source))?
            .ok_or_else(|| ImageError::Busy {
                path: path.to_owned(),
            })
    }

    pub(crate) fn image_path(&self, digest: Sha256) -> PathBuf {
        let hex = digest.to_string();
        self.folder().join("images/sha256").join(&hex[..2]).join(&hex)
    }
}

async fn is_whole(path: &Path, digest: Sha256) -> Result<bool, ImageError> {
    let from = path.to_owned();
    blocking(move || Ok(read(&from)?.is_some_and(|bytes| Sha256::of(&bytes) == digest)))
        .await
        .map_err(|source| failed(path, source))
}

/// Temporary file, write, fsync, rename, fsync of every folder that may be new.
fn write(path: &Path, image: &Image) -> io::Result<()> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    folder::make(folder)?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(TEMPORARY.as_bytes())
        {
            fs::remove_file(entry.path())?;
        }
    }
    // Made with mode 0600.
    let mut file = tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(folder)?;
    file.write_all(image.bytes())?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    // ab, sha256, images and the state folder.
    for folder in folder.ancestors().take(4) {
        folder::sync(folder)?;
    }
    Ok(())
}

/// The bytes of a file; none where it is not there. One byte more than the largest image is read, so that a longer file fails.
fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(source),
    };
    let mut bytes = Vec::new();
    file.take(MAX_IMAGE_LEN_BYTES + 1).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)?
}

pub(crate) fn failed(path: &Path, source: io::Error) -> ImageError {
    let path = path.to_owned();
    if is_full(&source) {
        ImageError::Full { path }
    } else {
        ImageError::Io { path, source }
    }
}
