//! Archives: unpacked into the sandbox, and nowhere else.
//!
//! An archive is hostile until proven otherwise. Entries with absolute paths or `..`, links that
//! lead out, devices, pipes, set-user-id bits, and more than there may be of bytes or entries
//! end the unpacking with a sentence that names the entry. Beyond these checks every path is
//! opened beneath the sandbox by the kernel, so that links which the archive itself brought lead
//! nowhere else either.

use std::fs::{File, Permissions};
use std::io::{self, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, linkat, symlinkat, unlinkat};

use super::place::{is_inside, is_output};
use super::{disk, too_large};

/// The most entries of one archive.
const ENTRIES_MAX: u64 = 1_000_000;
/// The most memory that a decoder may want for its window, in KiB (`xz -9` wants 65 MiB).
const WINDOW_MAX_KIB: u32 = 128 * 1024;
const SET_ID_BITS: u32 = 0o6000;

/// How an archive is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Tar(Packing),
    Zip,
    /// One file, packed.
    One(Packing),
}

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    Plain,
    Gzip,
    Bzip2,
    Xz,
    Zstd,
}

const ENDINGS: [(&str, Kind); 11] = [
    (".tar", Kind::Tar(Packing::Plain)),
    (".tar.gz", Kind::Tar(Packing::Gzip)),
    (".tgz", Kind::Tar(Packing::Gzip)),
    (".tar.bz2", Kind::Tar(Packing::Bzip2)),
    (".tbz2", Kind::Tar(Packing::Bzip2)),
    (".tar.xz", Kind::Tar(Packing::Xz)),
    (".txz", Kind::Tar(Packing::Xz)),
    (".tar.zst", Kind::Tar(Packing::Zstd)),
    (".tzst", Kind::Tar(Packing::Zstd)),
    (".zip", Kind::Zip),
    (".gz", Kind::One(Packing::Gzip)),
];

impl Kind {
    /// By the end of a name; `None` when it is no archive. (A `.jar` is wanted whole.)
    pub(super) fn of(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        ENDINGS
            .iter()
            .find(|(ending, _)| name.ends_with(ending))
            .map(|(_, kind)| *kind)
    }
}

/// How much may come out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Bytes in all.
    pub(super) size_max: u64,
    /// Bytes that may come out however small the archive is.
    pub(super) free: u64,
    /// Beyond that: how many times the archive's own size.
    pub(super) ratio: u64,
}

impl Limits {
    /// Text packs ten to one, and hardly anything real a hundred to one beyond the first GiB.
    pub(super) const fn of(size_max: u64) -> Self {
        Self {
            size_max,
            free: 1 << 30,
            ratio: 100,
        }
    }
}

#[derive(Debug)]
struct Budget {
    limits: Limits,
    archive_len: u64,
    written: u64,
    n_entries: u64,
}

impl Budget {
    fn spend(&mut self, n: u64) -> Result<(), String> {
        self.written = self.written.saturating_add(n);
        let Limits {
            size_max,
            free,
            ratio,
        } = self.limits;
        if self.written > size_max {
            return Err(too_large(self.written, size_max));
        }
        if self.written > free && self.written > self.archive_len.saturating_mul(ratio) {
            return Err(format!(
                "its {} bytes unpack to {} and more, which is no honest archive",
                self.archive_len, self.written
            ));
        }
        Ok(())
    }

    fn entry(&mut self) -> Result<(), String> {
        self.n_entries += 1;
        if self.n_entries > ENTRIES_MAX {
            return Err(format!("it has more than {ENTRIES_MAX} entries"));
        }
        Ok(())
    }
}

/// Unpacks an open archive of this name into `folder`, as the calling thread's user.
///
/// # Errors
/// A clause that names the entry. What was unpacked before it stays in the sandbox, whose task
/// does not start.
pub(super) fn extract(
    archive: File,
    kind: Kind,
    name: &str,
    folder: &Path,
    limits: Limits,
) -> Result<(), String> {
    let archive_len = archive.metadata().map_err(|error| error.to_string())?.len();
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC);
    let root = openat2(AT_FDCWD, folder, how)
        .map_err(|errno| format!("the sandbox cannot be opened: {}", errno.desc()))?;
    let mut unpacker = Unpacker {
        root,
        budget: Budget {
            limits,
            archive_len,
            written: 0,
            n_entries: 0,
        },
    };
    match kind {
        Kind::Tar(packing) => unpacker.tar(unpacked(archive, packing)?),
        Kind::Zip => unpacker.zip(archive),
        Kind::One(packing) => {
            let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
            let mut from = unpacked(archive, packing)?;
            unpacker.file(Path::new(stem), 0o644, &mut from)
        }
    }
}

fn unpacked(archive: File, packing: Packing) -> Result<Box<dyn Read>, String> {
    let archive = BufReader::with_capacity(64 * 1024, archive);
    Ok(match packing {
        Packing::Plain => Box::new(archive),
        Packing::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(archive)),
        Packing::Bzip2 => Box::new(bzip2_rs::DecoderReader::new(archive)),
        Packing::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(
            archive,
            true,
            WINDOW_MAX_KIB,
        )),
        Packing::Zstd => {
            let window = u64::from(WINDOW_MAX_KIB) << 10;
            let decoder =
                ruzstd::decoding::StreamingDecoder::new_with_max_window_size(archive, window);
            Box::new(decoder.map_err(|error| format!("it is no zstd stream: {error}"))?)
        }
    })
}

#[derive(Debug)]
struct Unpacker {
    root: OwnedFd,
    budget: Budget,
}

impl Unpacker {
    fn tar(&mut self, from: Box<dyn Read>) -> Result<(), String> {
        let damaged = |error: io::Error| format!("the archive is damaged: {error}");
        let mut archive = tar::Archive::new(from);
        for entry in archive.entries().map_err(damaged)? {
            let mut entry = entry.map_err(damaged)?;
            self.budget.entry()?;
            let path = checked(&entry.path().map_err(damaged)?)?;
            let header = entry.header();
            let mode = header.mode().unwrap_or(0o644);
            let link = entry
                .link_name()
                .map_err(damaged)?
                .map(|link| link.into_owned());
            use tar::EntryType as Type;
            match (header.entry_type(), path, link) {
                (Type::XGlobalHeader, ..) | (Type::Directory, None, _) => {}
                (Type::Directory, Some(path), _) => self.folder(&path, mode)?,
                (Type::Regular | Type::Continuous | Type::GNUSparse, Some(path), _) => {
                    self.file(&path, mode, &mut entry)?;
                }
                (Type::Symlink, Some(path), Some(to)) => self.symlink(&path, &to)?,
                (Type::Link, Some(path), Some(to)) => self.hard_link(&path, &to)?,
                (kind, path, _) => {
                    let path = path.unwrap_or_default();
                    return Err(refused(&path, &format!("is of the kind {kind:?}")));
                }
            }
        }
        Ok(())
    }

    fn zip(&mut self, archive: File) -> Result<(), String> {
        let damaged = |error: zip::result::ZipError| format!("the archive is damaged: {error}");
        let mut archive = zip::ZipArchive::new(archive).map_err(damaged)?;
        for i in 0..archive.len() {
            self.budget.entry()?;
            let mut entry = archive.by_index(i).map_err(damaged)?;
            let name = entry.name().map_err(damaged)?;
            let Some(path) = checked(Path::new(name.as_ref()))? else {
                continue;
            };
            let mode = entry.unix_mode().unwrap_or(0o644);
            if entry.is_dir() {
                self.folder(&path, mode)?;
            } else if entry.is_symlink() {
                let mut to = String::new();
                (&mut entry)
                    .take(4096)
                    .read_to_string(&mut to)
                    .map_err(|error| refused(&path, &error.to_string()))?;
                self.symlink(&path, Path::new(&to))?;
            } else {
                self.file(&path, mode, &mut entry)?;
            }
        }
        Ok(())
    }

    /// The folder that something goes into, made when missing, and its name there.
    fn parent<'a>(&self, path: &'a Path, links: Links) -> Result<(OwnedFd, &'a Path), Errno> {
        let name = path.file_name().ok_or(Errno::EINVAL)?;
        let mut at = self.open(Path::new("."), links)?;
        let mut so_far = PathBuf::new();
        for part in path.parent().into_iter().flat_map(Path::components) {
            match mkdirat(
                &at,
                Path::new(part.as_os_str()),
                Mode::from_bits_truncate(0o755),
            ) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(errno),
            }
            so_far.push(part);
            // From the sandbox again, so that links are judged by where they lead.
            at = self.open(&so_far, links)?;
        }
        Ok((at, Path::new(name)))
    }

    fn open(&self, path: &Path, links: Links) -> Result<OwnedFd, Errno> {
        let mut resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        if links == Links::Refused {
            resolve |= ResolveFlag::RESOLVE_NO_SYMLINKS;
        }
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        openat2(
            &self.root,
            path,
            OpenHow::new().flags(flags).resolve(resolve),
        )
    }

    fn folder(&self, path: &Path, mode: u32) -> Result<(), String> {
        check_mode(path, mode)?;
        let made = self.parent(path, Links::Inside).and_then(|(parent, name)| {
            let mode = Mode::from_bits_truncate(mode & 0o777 | 0o700);
            match mkdirat(&parent, name, mode) {
                Ok(()) | Err(Errno::EEXIST) => Ok(()),
                Err(errno) => Err(errno),
            }
        });
        made.map_err(|errno| failed(path, errno))
    }

    fn file(&mut self, path: &Path, mode: u32, from: &mut dyn Read) -> Result<(), String> {
        check_mode(path, mode)?;
        let made = self.parent(path, Links::Inside).and_then(|(parent, name)| {
            replace(&parent, name)?;
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
            let how = OpenHow::new()
                .flags(flags | OFlag::O_NOFOLLOW)
                .mode(Mode::from_bits_truncate(0o600));
            openat2(&parent, name, how)
        });
        let mut file = File::from(made.map_err(|errno| failed(path, errno))?);
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let n = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    let why = format!("is damaged after {} bytes: {error}", self.budget.written);
                    return Err(refused(path, &why));
                }
            };
            self.budget.spend(n as u64)?;
            file.write_all(buffer.get(..n).unwrap_or_default())
                .map_err(|error| refused(path, &disk(&error)))?;
        }
        file.set_permissions(Permissions::from_mode(mode & 0o777 | 0o400))
            .map_err(|error| refused(path, &disk(&error)))
    }

    fn symlink(&self, path: &Path, to: &Path) -> Result<(), String> {
        if !stays_inside(path, to) {
            let why = format!("is a link to {}, out of the sandbox", to.display());
            return Err(refused(path, &why));
        }
        // Counted from where it really lies: no other link may be on the way.
        let made = self
            .parent(path, Links::Refused)
            .and_then(|(parent, name)| {
                replace(&parent, name)?;
                symlinkat(to, &parent, name)
            });
        made.map_err(|errno| failed(path, errno))
    }

    fn hard_link(&self, path: &Path, to: &Path) -> Result<(), String> {
        let Some(to) = checked(to)? else {
            return Err(refused(path, "is a link to the sandbox itself"));
        };
        let made = self.parent(&to, Links::Refused).and_then(|(from, old)| {
            let (parent, name) = self.parent(path, Links::Inside)?;
            replace(&parent, name)?;
            linkat(from.as_fd(), old, parent.as_fd(), name, AtFlags::empty())
        });
        made.map_err(|errno| failed(path, errno))
    }
}

/// Whether links of the archive may be on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Links {
    /// As long as they stay in the sandbox.
    Inside,
    Refused,
}

/// A later entry of the same name replaces the earlier, as with `tar`.
fn replace(parent: &OwnedFd, name: &Path) -> Result<(), Errno> {
    match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// The path of an entry, without `.`; `None` for the sandbox itself.
fn checked(path: &Path) -> Result<Option<PathBuf>, String> {
    let plain: PathBuf = path
        .components()
        .filter(|part| *part != Component::CurDir)
        .collect();
    if plain.as_os_str().is_empty() {
        return Ok(None);
    }
    if !is_inside(&plain) {
        return Err(refused(path, "lies outside of the sandbox"));
    }
    if is_output(&plain) {
        return Err(refused(path, "is the task's own output"));
    }
    Ok(Some(plain))
}

/// Whether a link at `path` stays in the sandbox: counted in folders, no step above its root.
fn stays_inside(path: &Path, to: &Path) -> bool {
    let mut depth = path.components().count() - 1;
    for part in to.components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir => match depth.checked_sub(1) {
                Some(less) => depth = less,
                None => return false,
            },
            Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    !to.as_os_str().is_empty()
}

fn check_mode(path: &Path, mode: u32) -> Result<(), String> {
    if mode & SET_ID_BITS != 0 {
        return Err(refused(path, "is set-user-id or set-group-id"));
    }
    Ok(())
}

fn refused(path: &Path, why: &str) -> String {
    format!("its entry {:?} {why}", path.display().to_string())
}

fn failed(path: &Path, errno: Errno) -> String {
    match errno {
        Errno::EXDEV | Errno::ELOOP => refused(path, "lies behind a link out of the sandbox"),
        other => refused(path, &format!("cannot be made: {}", other.desc())),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const LIMITS: Limits = Limits {
        size_max: 1 << 20,
        free: 1000,
        ratio: 100,
    };

    /// What a tar archive of one entry after another is answered with.
    fn unpack(
        add: impl FnOnce(&mut tar::Builder<File>),
    ) -> (tempfile::TempDir, Result<(), String>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tar");
        let mut builder = tar::Builder::new(File::create(&path).unwrap());
        add(&mut builder);
        builder.into_inner().unwrap();
        let sandbox = folder.path().join("sandbox");
        fs::create_dir(&sandbox).unwrap();
        let archive = File::open(path).unwrap();
        let done = extract(
            archive,
            Kind::of("a.tar").unwrap(),
            "a.tar",
            &sandbox,
            LIMITS,
        );
        (folder, done)
    }

    /// An entry whose name and link may be anything, which the builder itself would refuse.
    fn raw(
        kind: tar::EntryType,
        name: &str,
        link: &str,
        mode: u32,
        data: &[u8],
    ) -> (tar::Header, Vec<u8>) {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(data.len() as u64);
        header.set_cksum();
        (header, data.to_vec())
    }

    #[test]
    fn what_leads_out_of_the_sandbox_is_refused_by_name() {
        use tar::EntryType as Type;
        for (kind, name, link, mode, why) in [
            (Type::Regular, "../up", "", 0o644, "outside"),
            (Type::Regular, "/tmp/abs", "", 0o644, "outside"),
            (Type::Regular, "a/../../up", "", 0o644, "outside"),
            (Type::Regular, "./stdout", "", 0o644, "own output"),
            (Type::Symlink, "l", "/etc", 0o777, "out of the sandbox"),
            (Type::Symlink, "a/l", "../../x", 0o777, "out of the sandbox"),
            (Type::Link, "h", "/etc/passwd", 0o644, "outside"),
            (Type::Link, "h", "../x", 0o644, "outside"),
            (Type::Char, "null", "", 0o666, "kind"),
            (Type::Fifo, "pipe", "", 0o666, "kind"),
            (Type::Regular, "su", "", 0o4755, "set-user-id"),
            (Type::Directory, "sg", "", 0o2755, "set-group-id"),
        ] {
            let (header, data) = raw(kind, name, link, mode, b"");
            let (folder, done) = unpack(|builder| builder.append(&header, &data[..]).unwrap());
            let error = done.unwrap_err();
            assert!(error.contains(why), "{name}: {error}");
            assert!(!folder.path().join("up").exists());
        }
    }

    #[test]
    fn links_of_the_archive_itself_are_no_way_out() {
        use tar::EntryType as Type;
        // `d/e/f` is `a`, so a link there lies one folder deep and not three.
        let entries = [
            raw(Type::Directory, "a", "", 0o755, b""),
            raw(Type::Symlink, "d/e/f", "../../a", 0o777, b""),
            raw(Type::Symlink, "d/e/f/x", "../../..", 0o777, b""),
        ];
        let (_folder, done) = unpack(|builder| {
            for (header, data) in &entries {
                builder.append(header, &data[..]).unwrap();
            }
        });
        assert!(done.unwrap_err().contains("behind a link"));
    }

    #[test]
    fn an_honest_archive_comes_out_whole() {
        use tar::EntryType as Type;
        let entries = [
            raw(Type::Directory, "./", "", 0o755, b""),
            raw(Type::Directory, "lib64", "", 0o500, b""),
            raw(Type::Symlink, "lib", "lib64", 0o777, b""),
            raw(Type::Regular, "lib/x", "", 0o750, b"hello"),
            raw(Type::Link, "same", "lib64/x", 0o644, b""),
            raw(Type::Regular, "lib/x", "", 0o640, b"again"),
        ];
        let (folder, done) = unpack(|builder| {
            for (header, data) in &entries {
                builder.append(header, &data[..]).unwrap();
            }
        });
        done.unwrap();
        let sandbox = folder.path().join("sandbox");
        assert_eq!(fs::read(sandbox.join("lib64/x")).unwrap(), b"again");
        assert_eq!(fs::read(sandbox.join("same")).unwrap(), b"hello");
        let mode = fs::metadata(sandbox.join("same"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o750);
    }

    #[test]
    fn every_packing_is_understood() {
        let archives = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/archives");
        for name in ["a.tar.gz", "a.tar.bz2", "a.tar.xz", "a.tar.zst", "a.zip"] {
            let sandbox = tempfile::tempdir().unwrap();
            let archive = File::open(archives.join(name)).unwrap();
            let kind = Kind::of(name).unwrap();
            extract(archive, kind, name, sandbox.path(), Limits::of(1 << 20)).unwrap();
            let text = fs::read_to_string(sandbox.path().join("d/link")).unwrap();
            assert_eq!(text, "hello\n", "{name}");
        }
    }

    #[test]
    fn a_bomb_and_a_cut_archive_are_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bomb.gz");
        let mut gz = flate2::write::GzEncoder::new(
            File::create(&path).unwrap(),
            flate2::Compression::best(),
        );
        gz.write_all(&vec![0; 900_000]).unwrap();
        gz.finish().unwrap();
        let open = || File::open(&path).unwrap();
        let kind = Kind::of("bomb.gz").unwrap();
        let bomb = extract(open(), kind, "bomb.gz", folder.path(), LIMITS).unwrap_err();
        assert!(bomb.contains("no honest archive"), "{bomb}");
        let small = Limits {
            size_max: 1000,
            ..LIMITS
        };
        let large = extract(open(), kind, "bomb.gz", folder.path(), small).unwrap_err();
        assert!(large.contains("at most 1000"), "{large}");
        let len = open().metadata().unwrap().len();
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(len / 2)
            .unwrap();
        let roomy = Limits::of(1 << 30);
        let cut = extract(open(), kind, "bomb.gz", folder.path(), roomy).unwrap_err();
        assert!(cut.contains("damaged after"), "{cut}");
    }

    #[test]
    fn a_name_tells_how_an_archive_is_packed() {
        assert_eq!(Kind::of("A.TAR.GZ"), Some(Kind::Tar(Packing::Gzip)));
        assert_eq!(Kind::of("a.gz"), Some(Kind::One(Packing::Gzip)));
        assert_eq!(Kind::of("a.tar.zst"), Some(Kind::Tar(Packing::Zstd)));
        assert_eq!(Kind::of("app.jar"), None);
        assert_eq!(Kind::of("a.txt"), None);
    }
}
