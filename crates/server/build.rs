//! Puts the page into the program: every file of `page/` as it is and compressed, so that nothing is compressed at run time.
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=page");
    println!("cargo::rerun-if-changed=build.rs");
    let folder = |name| {
        env::var_os(name)
            .map(PathBuf::from)
            .ok_or(io::ErrorKind::NotFound)
    };
    let (page, out) = (folder("CARGO_MANIFEST_DIR")?.join("page"), folder("OUT_DIR")?);
    let mut names = Vec::new();
    collect(&page, "", &mut names)?;
    names.sort();
    let mut list = "&[\n".to_owned();
    for (idx, name) in names.iter().enumerate() {
        let plain = page.join(name);
        let packed = out.join(format!("{idx}.gz"));
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(&fs::read(&plain)?)?;
        fs::write(&packed, encoder.finish()?)?;
        // Quoted as Rust quotes text: a folder may have any name.
        let (plain, packed) = (plain.to_string_lossy(), packed.to_string_lossy());
        let _ = writeln!(
            list,
            "    File {{ name: {name:?}, plain: include_bytes!({plain:?}), gzip: include_bytes!({packed:?}) }},"
        );
    }
    list.push_str("]\n");
    fs::write(out.join("page.rs"), list)
}

/// The names of all files below a folder, with `/` between their parts.
fn collect(folder: &Path, prefix: &str, names: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), &format!("{name}/"), names)?;
        } else {
            names.push(name);
        }
    }
    Ok(())
}
