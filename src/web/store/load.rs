//! Walking the folder and making the store of it.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File, Metadata};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::HeaderValue;
use sha2::{Digest, Sha256};

use super::{Asset, Coding, Content, DiskFile, Entry, Form, Store, compress, media};
use crate::config::Static;
use crate::path;

/// Folders within folders, at most. Links inside the folder can make it endless.
const MAX_DEPTH: usize = 64;

/// Why there is no store at all.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
pub struct LoadError {
    /// The folder.
    pub path: PathBuf,
    /// What the operating system said.
    pub source: std::io::Error,
}

/// A store, and what could not be taken into it.
#[derive(Debug)]
pub struct Loaded {
    pub store: Store,
    /// Left out on purpose: hidden files, links that lead outside, names that are no text.
    pub skipped: Vec<String>,
    /// Should be there and could not be read.
    pub unreadable: Vec<String>,
}

/// Reads the folder of `config`. What did not change since `old` was made is taken from there.
pub fn load(config: &Static, old: &Store) -> Result<Loaded, LoadError> {
    let Walk { found, skipped, mut unreadable, .. } = Walk::all(config)?;

    let mut builder = Builder { config, old, by_file: HashMap::new(), memory: 0, started: SystemTime::now() };
    // Smallest first: when memory runs out, it is the large files that are left on disk.
    let files: BTreeSet<(u64, &Path)> = found.iter().map(|f| (f.len, f.file.as_path())).collect();
    for (_, path) in files {
        match builder.read(path) {
            // Gone between the walk and now: a deployment is at work, and the reload after it will tell.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => unreadable.push(format!("{}: {e}", path.display())),
            Ok(asset) => {
                builder.by_file.insert(path.to_owned(), asset);
            }
        }
    }
    builder.add_coded_forms();
    Ok(Loaded { store: builder.finish(found), skipped, unreadable })
}

/// Whether a reload could read all that there is: the first thing that it could not.
pub fn check(config: &Static) -> Result<(), LoadError> {
    let Walk { found, unreadable, .. } = Walk::all(config)?;
    if let Some(first) = unreadable.into_iter().next() {
        return Err(LoadError { path: config.root.clone(), source: std::io::Error::other(first) });
    }
    for Found { file, .. } in found {
        match File::open(&file) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(LoadError { path: file, source });
            }
            _ => {}
        }
    }
    Ok(())
}

/// A file under a path of the site. Two paths may lead to one file.
struct Found {
    url: String,
    file: PathBuf,
    len: u64,
}

struct Walk {
    root: PathBuf,
    found: Vec<Found>,
    skipped: Vec<String>,
    unreadable: Vec<String>,
}

impl Walk {
    fn all(config: &Static) -> Result<Self, LoadError> {
        let fail = |source| LoadError { path: config.root.clone(), source };
        let root = config.root.canonicalize().map_err(fail)?;
        fs::read_dir(&root).map_err(fail)?;
        let mut walk =
            Self { root: root.clone(), found: Vec::new(), skipped: Vec::new(), unreadable: Vec::new() };
        walk.folder(&root, "", &mut Vec::new());
        Ok(walk)
    }

    /// Takes in the folder `dir` (a path without links), which stands under `url`; `above` are the folders it is in.
    fn folder(&mut self, dir: &Path, url: &str, above: &mut Vec<PathBuf>) {
        if above.len() >= MAX_DEPTH || above.iter().any(|a| a == dir) {
            self.skipped.push(format!("{}: a link leads into a folder it is in", dir.display()));
            return;
        }
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(e) => return self.unreadable.push(format!("{}: {e}", dir.display())),
        };
        above.push(dir.to_owned());
        for entry in entries {
            match entry {
                Ok(entry) => self.entry(&entry.path(), url, above),
                Err(e) => self.unreadable.push(format!("{}: {e}", dir.display())),
            }
        }
        above.pop();
    }

    fn entry(&mut self, path: &Path, url: &str, above: &mut Vec<PathBuf>) {
        let Some(name) = path.file_name().and_then(|n| n.to_str()) else {
            return self.skipped.push(format!("{}: its name is not UTF-8", path.display()));
        };
        // RFC 8615 gives /.well-known a meaning; every other hidden file is an editor's, a version control's, a secret.
        if name.starts_with('.') && !(name == ".well-known" && url.is_empty()) {
            return self.skipped.push(format!("{}: is hidden", path.display()));
        }
        let real = match path.canonicalize() {
            Ok(real) => real,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return self.skipped.push(format!("{}: leads nowhere", path.display()));
            }
            Err(e) => return self.unreadable.push(format!("{}: {e}", path.display())),
        };
        let Ok(inside) = real.strip_prefix(&self.root) else {
            return self.skipped.push(format!(
                "{}: is a link that leaves {}",
                path.display(),
                self.root.display()
            ));
        };
        if self.is_hidden(inside) {
            return self.skipped.push(format!("{}: is a link to a hidden file", path.display()));
        }
        let url = format!("{url}/{name}");
        match fs::metadata(&real) {
            Ok(m) if m.is_dir() => self.folder(&real, &url, above),
            Ok(m) if m.is_file() => self.found.push(Found { url, file: real, len: m.len() }),
            Ok(_) => self.skipped.push(format!("{}: is neither file nor folder", path.display())),
            Err(e) => self.unreadable.push(format!("{}: {e}", path.display())),
        }
    }

    fn is_hidden(&self, inside: &Path) -> bool {
        let rest = inside.strip_prefix(".well-known").unwrap_or(inside);
        rest.iter().any(|part| part.as_encoded_bytes().starts_with(b"."))
    }
}

struct Builder<'a> {
    config: &'a Static,
    old: &'a Store,
    by_file: HashMap<PathBuf, Arc<Asset>>,
    memory: u64,
    started: SystemTime,
}

impl Builder<'_> {
    fn read(&mut self, path: &Path) -> std::io::Result<Arc<Asset>> {
        let mut file = File::open(path)?;
        let metadata = file.metadata()?;
        let fits = metadata.len() <= self.config.max_memory_file.as_u64()
            && self.memory + metadata.len() <= self.config.max_memory.as_u64();
        let (content, hash): (_, [u8; 32]) = if fits {
            let mut bytes = Vec::with_capacity(metadata.len() as usize);
            file.read_to_end(&mut bytes)?;
            self.memory += bytes.len() as u64;
            let hash = Sha256::digest(&bytes).into();
            (Content::Memory(bytes.into()), hash)
        } else {
            (Content::Disk(DiskFile::new(path, &metadata)), digest(file)?)
        };
        let in_memory = match &content {
            Content::Memory(bytes) => Some(&bytes[..]),
            Content::Disk(_) => None,
        };
        let (content_type, _) = media::of(path, in_memory);
        Ok(Arc::new(Asset {
            forms: vec![Form { coding: Coding::Identity, content, etag: etag(&hash) }],
            content_type,
            modified: self.modified(&metadata),
            hash,
        }))
    }

    /// RFC 9110 section 8.8.2.1: never later than now. A time at the epoch's first second is how the Nix store says "no
    /// time"; telling it would make every new release "not modified".
    fn modified(&self, metadata: &Metadata) -> Option<SystemTime> {
        let seconds = u64::try_from(metadata.mtime()).ok().filter(|s| *s > 1)?;
        let now = self.started.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
        Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.min(now)))
    }

    /// The files `x.br`, `x.zst` and `x.gz` are forms of `x`; what is not there is made, on all processors.
    fn add_coded_forms(&mut self) {
        let assets: Vec<(&PathBuf, &Arc<Asset>)> = self.by_file.iter().collect();
        let next = AtomicUsize::new(0);
        let work = || {
            let mut made = Vec::new();
            while let Some((path, asset)) = assets.get(next.fetch_add(1, Ordering::Relaxed)) {
                made.push(((*path).clone(), self.coded_forms(path, asset)));
            }
            made
        };
        let workers = std::thread::available_parallelism().map_or(1, |n| n.get()).min(assets.len());
        let mut made: Vec<(PathBuf, Vec<Coded>)> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
            threads.into_iter().flat_map(|t| t.join().unwrap_or_default()).collect()
        });
        made.sort_by(|(a, _), (b, _)| a.cmp(b));
        for (path, coded) in made {
            let Some(asset) = self.by_file.get_mut(&path) else { continue };
            let mut forms = Vec::new();
            for Coded { form, new } in coded {
                if new && self.memory + form.content.len() > self.config.max_memory.as_u64() {
                    continue;
                }
                self.memory += if new { form.content.len() } else { 0 };
                forms.push(form);
            }
            forms.sort_by_key(|f| f.content.len());
            if !forms.is_empty() {
                let mut whole = Asset::clone(asset);
                whole.forms.extend(forms);
                *asset = Arc::new(whole);
            }
        }
    }

    fn coded_forms(&self, path: &Path, asset: &Asset) -> Vec<Coded> {
        let mut forms = Vec::new();
        let before = self.old.by_file.get(path).filter(|old| old.hash == asset.hash);
        for (coding, extension) in Coding::STORED {
            if let Some(form) = self.sibling(path, asset, coding, extension) {
                forms.push(Coded { form, new: false });
                continue;
            }
            let Content::Memory(plain) = &asset.identity().content else { continue };
            if !self.config.compress || !media::of(path, None).1 {
                continue;
            }
            let form = before.and_then(|b| b.form(coding)).cloned().or_else(|| {
                let bytes = compress::compress(plain, coding)?;
                let etag = etag(&Sha256::digest(&bytes).into());
                Some(Form { coding, content: Content::Memory(bytes), etag })
            });
            forms.extend(form.map(|form| Coded { form, new: true }));
        }
        forms
    }

    /// The form that the folder has beside the file, unless it is older than the file.
    fn sibling(&self, path: &Path, asset: &Asset, coding: Coding, extension: &str) -> Option<Form> {
        let mut name = path.as_os_str().to_owned();
        name.push(".");
        name.push(extension);
        let sibling = self.by_file.get(Path::new(&name))?;
        if sibling.modified < asset.modified {
            return None;
        }
        let plain = sibling.identity();
        Some(Form { coding, content: plain.content.clone(), etag: plain.etag.clone() })
    }

    fn finish(self, found: Vec<Found>) -> Store {
        let mut entries: HashMap<Box<str>, Entry> = HashMap::with_capacity(found.len() + found.len() / 4);
        for Found { url, file, .. } in found {
            let Some(asset) = self.by_file.get(&file) else { continue };
            if let Some(folder) = url.strip_suffix(&self.config.index).filter(|f| f.ends_with('/')) {
                entries.insert(folder.into(), Entry::File(asset.clone()));
                let bare = &folder[..folder.len() - 1];
                if !bare.is_empty()
                    && let Ok(location) = HeaderValue::from_str(&path::encode(folder))
                {
                    entries.insert(bare.into(), Entry::Folder(location));
                }
            }
            entries.insert(url.into(), Entry::File(asset.clone()));
        }
        Store { entries, by_file: self.by_file, memory: self.memory }
    }
}

/// A coded form, and whether its bytes are in memory for it alone.
struct Coded {
    form: Form,
    new: bool,
}

fn digest(mut file: File) -> std::io::Result<[u8; 32]> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.finalize().into()),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// 128 bits of the hash: equal tags mean equal bytes, on every node (RFC 9110 section 8.8.3).
fn etag(hash: &[u8; 32]) -> HeaderValue {
    let tag = format!("\"{}\"", BASE64_URL_SAFE_NO_PAD.encode(&hash[..16]));
    HeaderValue::from_str(&tag).unwrap_or(HeaderValue::from_static("\"\""))
}

impl DiskFile {
    /// The file at `path` with this metadata.
    fn new(path: &Path, metadata: &Metadata) -> Self {
        let identity = (metadata.dev(), metadata.ino(), metadata.mtime(), metadata.mtime_nsec());
        Self { path: path.to_owned(), len: metadata.len(), identity }
    }

    /// Opens it, if it still is what it was; an error of kind `InvalidData` says that it is not.
    pub fn open(&self) -> std::io::Result<File> {
        let file = File::open(&self.path)?;
        if Self::new(&self.path, &file.metadata()?) == *self {
            return Ok(file);
        }
        Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "changed since it was loaded"))
    }
}
