//! What a loss of power leaves.
//!
//! # The model
//! *Bytes of a file.* What was written before the start of a sync that succeeded is there. Of the rest any part may be:
//! nothing, all, a beginning that is torn at any byte, or any pieces of 512 or 4,096 bytes. Bytes between that did not
//! make it keep their old content, or are zeros where the file was shorter; the file may also have its new length with
//! zeros for all that is missing. A truncation is one of the changes, kept or lost. Bytes that were never written
//! (another file's old blocks) do not appear: ext4 and XFS promise that in their default modes. They also write a file's
//! new length after its bytes. Directories that [`Disk::keep_order_below`] names count on it: there nothing is kept
//! behind a gap in what a file has grown by, while pieces of what is overwritten in place are lost as everywhere.
//!
//! *Names.* A name made, moved or removed is durable once its directory was synced afterwards. Until then two models
//! are drawn from by turns. `ordered`: the changes of all directories are one journal, of which a beginning stays, as on
//! ext4 and XFS. `any`: each change stays or not by itself, which is all that POSIX promises. A rename is one change in
//! both: no file system in use tears it. [`Disk::keep_order_below`] names directories whose owner relies on the order:
//! there a beginning stays in both. RocksDB is such an owner. It renames `CURRENT` to name a manifest whose own name it
//! has not synced, and refuses a manifest that ends in zeros; where neither names nor lengths keep an order no RocksDB
//! survives.
//!
//! *A sync that failed* drops what was dirty, as Linux does: it may be on the disk in part, and no later sync makes it
//! so. Names stay as they were, since their journal is not in the page cache.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use bytes::Bytes;
use raft_core::testing::Random;

use super::record::{Change, Event};

type Inode = usize;
const ROOT: Inode = 0;

/// Files and directories with what is known of their durability.
#[derive(Clone)]
pub(crate) struct Disk {
    files: Vec<FileState>,
    /// As processes see them.
    names: BTreeMap<(Inode, String), Inode>,
    durable_names: BTreeMap<(Inode, String), Inode>,
    /// Those that are not folded into `durable_names`, in order.
    name_changes: Vec<NameChange>,
    order_kept_below: Option<String>,
    handles: BTreeMap<u32, Inode>,
    syncs: BTreeMap<u64, (Inode, u64)>,
    clock: u64,
}

#[derive(Clone, Default)]
struct FileState {
    directory: bool,
    durable: Vec<u8>,
    /// Those that are not folded into `durable`, in order.
    changes: Vec<ContentChange>,
}

#[derive(Clone)]
struct ContentChange {
    at: u64,
    what: Content,
    fate: Fate,
}

#[derive(Clone)]
enum Content {
    Bytes { offset: u64, bytes: Bytes },
    Length(u64),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Dirty,
    /// A failed sync took it for clean.
    Dropped,
    Durable,
}

#[derive(Clone)]
struct NameChange {
    at: u64,
    sets: Vec<(Inode, String, Option<Inode>)>,
    /// Directories that have to be synced yet.
    waits_for: Vec<Inode>,
    /// Never lost while a later one of this kind is kept.
    in_order: bool,
}

/// A directory as a loss of power left it.
pub(crate) struct Image {
    /// Parents before children.
    pub(crate) directories: Vec<String>,
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    /// What was drawn.
    pub(crate) story: String,
}

/// What becomes of a file's changes that are not durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keep {
    Nothing,
    Everything,
    Beginning,
    Pieces,
}

/// How one file loses its changes.
struct Loss {
    keep: Keep,
    keep_dropped: bool,
    /// What it tears at multiples of.
    grain: u64,
    /// Of four, for each piece.
    chance: u64,
}

impl Loss {
    fn draw(all: Option<Keep>, keep_dropped: bool, random: &mut Random) -> Self {
        let keep = all.unwrap_or_else(|| match random.below(10) {
            0 | 1 => Keep::Nothing,
            2 => Keep::Everything,
            3..=6 => Keep::Beginning,
            _ => Keep::Pieces,
        });
        Self { keep, keep_dropped, grain: [1, 512, 4096][random.below(3) as usize], chance: 1 + random.below(3) }
    }
}

/// What was read; none when it is gone.
fn there<T>(read: std::io::Result<T>) -> Option<T> {
    match read {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        read => Some(read.unwrap()),
    }
}

impl Disk {
    /// An empty root.
    pub(crate) fn empty() -> Self {
        let root = FileState { directory: true, ..FileState::default() };
        Self {
            files: vec![root],
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            name_changes: Vec::new(),
            order_kept_below: None,
            handles: BTreeMap::new(),
            syncs: BTreeMap::new(),
            clock: 0,
        }
    }

    /// A root with what `directory` holds, all of it durable.
    pub(crate) fn of_directory(directory: &Path) -> Self {
        let mut disk = Self::empty();
        disk.load(directory, ROOT);
        disk.durable_names = disk.names.clone();
        disk
    }

    /// As [`Disk::of_directory`] with an image that was not written out.
    pub(crate) fn of_image(image: &Image) -> Self {
        let mut disk = Self::empty();
        for path in &image.directories {
            disk.place(path, FileState { directory: true, ..FileState::default() });
        }
        for (path, content) in &image.files {
            disk.place(path, FileState { durable: content.clone(), ..FileState::default() });
        }
        disk.durable_names = disk.names.clone();
        disk
    }

    /// Names below `prefix`, which ends with `/`, are lost from the end only.
    pub(crate) fn keep_order_below(&mut self, prefix: &str) {
        self.order_kept_below = Some(prefix.to_owned());
    }

    fn keeps_order(&self, path: &str) -> bool {
        self.order_kept_below.as_ref().is_some_and(|prefix| path.starts_with(prefix))
    }

    /// What is there. An older store beside the one under test may still be in use, so its files may go meanwhile.
    fn load(&mut self, directory: &Path, inode: Inode) {
        let Some(entries) = there(fs::read_dir(directory)) else { return };
        for entry in entries {
            let entry = entry.unwrap();
            let is_directory = entry.file_type().unwrap().is_dir();
            let content = if is_directory { Some(Vec::new()) } else { there(fs::read(entry.path())) };
            let Some(durable) = content else { continue };
            let child = self.add(FileState { directory: is_directory, durable, changes: Vec::new() });
            self.names.insert((inode, entry.file_name().into_string().unwrap()), child);
            if is_directory {
                self.load(&entry.path(), child);
            }
        }
    }

    fn place(&mut self, path: &str, file: FileState) {
        let (parent, name) = self.parent(path);
        let inode = self.add(file);
        self.names.insert((parent, name), inode);
    }

    fn add(&mut self, file: FileState) -> Inode {
        self.files.push(file);
        self.files.len() - 1
    }

    /// The file at `path`, as processes see it.
    fn find(&self, path: &str) -> Option<Inode> {
        let mut parts = path.split('/').filter(|part| *part != ".");
        parts.try_fold(ROOT, |at, part| self.names.get(&(at, part.to_owned())).copied())
    }

    /// The directory of `path`, and its last name.
    fn parent(&self, path: &str) -> (Inode, String) {
        let (parent, name) = path.rsplit_once('/').unwrap_or((".", path));
        let parent = self.find(parent).unwrap_or_else(|| panic!("{path} was made in a directory that nobody made"));
        (parent, name.to_owned())
    }

    fn at(&self, handle: u32) -> Inode {
        *self.handles.get(&handle).unwrap_or_else(|| panic!("handle {handle} was never opened"))
    }

    /// Takes over what the next call did.
    pub(crate) fn apply(&mut self, event: &Event) {
        self.clock += 1;
        match &event.change {
            Change::Life => {
                self.handles.clear();
                self.syncs.clear();
            }
            Change::Open { handle, path, created, truncated } => self.open(*handle, path, *created, *truncated),
            Change::Write { handle, offset, bytes } => {
                self.change(self.at(*handle), Content::Bytes { offset: *offset, bytes: bytes.clone() });
            }
            Change::Truncate { handle, length } => self.change(self.at(*handle), Content::Length(*length)),
            Change::Zero { handle, offset, length } => self.zero(self.at(*handle), *offset, *length),
            Change::SyncStart { handle, id } => {
                self.syncs.insert(*id, (self.at(*handle), self.clock));
            }
            Change::SyncEnd { id, error, skipped, .. } => {
                let (inode, start) = self.syncs.remove(id).expect("a sync ends after its start");
                if !skipped {
                    self.sync(inode, start, *error == 0);
                }
            }
            Change::Rename { from, to } => {
                let inode = self.find(from).expect("a file that is renamed is there");
                self.rename(&[(from, None), (to, Some(inode))]);
            }
            Change::Unlink { path } | Change::RemoveDirectory { path } => self.rename(&[(path, None)]),
            Change::Link { from, to } => {
                let inode = self.find(from).expect("a file that is linked is there");
                self.rename(&[(to, Some(inode))]);
            }
            Change::MakeDirectory { path } => {
                let inode = self.add(FileState { directory: true, ..FileState::default() });
                self.rename(&[(path, Some(inode))]);
            }
            Change::Mark(_) | Change::Fault(_) => {}
        }
    }

    fn open(&mut self, handle: u32, path: &str, created: bool, truncated: bool) {
        if created {
            let inode = self.add(FileState::default());
            self.rename(&[(path, Some(inode))]);
        }
        let inode = self.find(path).unwrap_or_else(|| panic!("{path} was opened, and nobody made it"));
        self.handles.insert(handle, inode);
        if truncated {
            self.change(inode, Content::Length(0));
        }
    }

    fn change(&mut self, inode: Inode, what: Content) {
        self.files[inode].changes.push(ContentChange { at: self.clock, what, fate: Fate::Dirty });
    }

    fn zero(&mut self, inode: Inode, offset: u64, length: u64) {
        let end = (self.newest_content(inode).len() as u64).min(offset + length);
        if let Some(length) = end.checked_sub(offset).filter(|length| *length > 0) {
            let bytes = Bytes::from(vec![0; length as usize]);
            self.change(inode, Content::Bytes { offset, bytes });
        }
    }

    fn rename(&mut self, paths: &[(&str, Option<Inode>)]) {
        let mut sets = Vec::new();
        let mut waits_for = Vec::new();
        for (path, inode) in paths {
            let (parent, name) = self.parent(path);
            match inode {
                Some(inode) => self.names.insert((parent, name.clone()), *inode),
                None => self.names.remove(&(parent, name.clone())),
            };
            sets.push((parent, name, *inode));
            if !waits_for.contains(&parent) {
                waits_for.push(parent);
            }
        }
        let in_order = self.keeps_order(paths[0].0);
        self.name_changes.push(NameChange { at: self.clock, sets, waits_for, in_order });
    }

    fn sync(&mut self, inode: Inode, start: u64, succeeded: bool) {
        if self.files[inode].directory {
            if succeeded {
                self.sync_names(inode, start);
            }
            return;
        }
        let file = &mut self.files[inode];
        let fate = if succeeded { Fate::Durable } else { Fate::Dropped };
        for change in file.changes.iter_mut().filter(|change| change.at < start && change.fate == Fate::Dirty) {
            change.fate = fate;
        }
        let folded = file.changes.iter().take_while(|change| change.fate == Fate::Durable).count();
        for change in file.changes.drain(..folded) {
            change.what.apply(&mut file.durable);
        }
    }

    fn sync_names(&mut self, directory: Inode, start: u64) {
        for change in self.name_changes.iter_mut().filter(|change| change.at < start) {
            change.waits_for.retain(|waiting| *waiting != directory);
        }
        let folded = self.name_changes.iter().take_while(|change| change.waits_for.is_empty()).count();
        for change in self.name_changes.drain(..folded) {
            change.apply(&mut self.durable_names);
        }
    }

    fn newest_content(&self, inode: Inode) -> Vec<u8> {
        let mut content = self.files[inode].durable.clone();
        self.files[inode].changes.iter().for_each(|change| change.what.apply(&mut content));
        content
    }

    /// The directory as processes see it now.
    pub(crate) fn newest(&self) -> Image {
        self.gather(&self.names, "as processes saw it".into(), |_, inode| self.newest_content(inode))
    }

    /// The directory as a loss of power at this moment could leave it.
    pub(crate) fn image(&self, random: &mut Random) -> Image {
        let (names, mut story) = self.draw_names(random);
        // All or nothing of everything finds what a missing sync costs; the mixtures find what an order costs.
        let all = match random.below(8) {
            0 | 1 => Some(Keep::Nothing),
            2 => Some(Keep::Everything),
            _ => None,
        };
        let keep_dropped = random.below(4) == 0;
        self.gather(&names, String::new(), |path, inode| {
            let in_order = self.keeps_order(path);
            let (content, told) = self.draw_content(inode, in_order, Loss::draw(all, keep_dropped, random), random);
            if let Some(told) = told {
                story += &format!("; {path}: {told}");
            }
            content
        })
        .told(story)
    }

    fn draw_names(&self, random: &mut Random) -> (BTreeMap<(Inode, String), Inode>, String) {
        let mut names = self.durable_names.clone();
        let count = self.name_changes.len() as u64;
        let durable = self.name_changes.iter().rposition(|change| change.waits_for.is_empty()).map_or(0, |at| at + 1);
        if random.below(2) == 0 {
            let kept = durable + random.below(count - durable as u64 + 1) as usize;
            self.name_changes[..kept].iter().for_each(|change| change.apply(&mut names));
            return (names, format!("names ordered, {kept} of {count} kept"));
        }
        let chance = random.below(5);
        let mut story = "names any".to_owned();
        let in_order = self.name_changes.iter().enumerate().filter(|(_, change)| change.in_order).map(|(at, _)| at);
        let durable = self.name_changes.iter().rposition(|change| change.in_order && change.waits_for.is_empty());
        let in_order: Vec<usize> = in_order.filter(|at| durable.is_none_or(|durable| *at > durable)).collect();
        // One beyond the last that stays of those that keep their order.
        let end = in_order.get(random.below(in_order.len() as u64 + 1) as usize).copied().unwrap_or(usize::MAX);
        for (at, change) in self.name_changes.iter().enumerate() {
            let drawn = if change.in_order { at < end } else { random.below(4) < chance };
            if drawn || change.waits_for.is_empty() {
                change.apply(&mut names);
            } else {
                story +=
                    &format!(", lost {}", change.sets.iter().map(|set| set.1.as_str()).collect::<Vec<_>>().join(">"));
            }
        }
        (names, story)
    }

    fn draw_content(&self, inode: Inode, in_order: bool, loss: Loss, random: &mut Random) -> (Vec<u8>, Option<String>) {
        let file = &self.files[inode];
        let mut content = file.durable.clone();
        if file.changes.is_empty() {
            return (content, None);
        }
        let Loss { keep, keep_dropped, grain, chance } = loss;
        let open = file.changes.iter().filter(|change| change.fate != Fate::Durable).count() as u64;
        let whole = random.below(open);
        // Where the file's old length ends, and where the first gap behind it is.
        let (mut grown_from, mut gap) = (content.len(), usize::MAX);
        let mut seen = 0;
        for change in &file.changes {
            if change.fate == Fate::Durable {
                change.what.apply(&mut content);
                grown_from = content.len();
                continue;
            }
            seen += 1;
            if change.fate == Fate::Dropped && !keep_dropped {
                continue;
            }
            match keep {
                Keep::Nothing => {}
                Keep::Everything => change.what.apply(&mut content),
                Keep::Beginning if seen <= whole => change.what.apply(&mut content),
                Keep::Beginning if seen == whole + 1 => change.what.apply_beginning(&mut content, grain, random),
                Keep::Beginning => {}
                Keep::Pieces => {
                    let lost = change.what.apply_pieces(&mut content, (grain.max(512), chance), grown_from, random);
                    gap = gap.min(lost.unwrap_or(usize::MAX));
                }
            }
        }
        let mut told = format!("{keep:?} of {open} by {grain}");
        let length = self.newest_content(inode).len();
        if in_order {
            content.truncate(gap.max(grown_from));
        } else if length > content.len() && random.below(4) == 0 {
            content.resize(length, 0);
            told += ", with its new length";
        }
        (content, Some(told))
    }

    fn gather(
        &self,
        names: &BTreeMap<(Inode, String), Inode>,
        story: String,
        mut content: impl FnMut(&str, Inode) -> Vec<u8>,
    ) -> Image {
        let mut image = Image { directories: Vec::new(), files: BTreeMap::new(), story };
        let mut contents: BTreeMap<Inode, Vec<u8>> = BTreeMap::new();
        let mut open = vec![(ROOT, String::new())];
        while let Some((directory, prefix)) = open.pop() {
            for ((_, name), inode) in names.range((directory, String::new())..(directory + 1, String::new())) {
                let path = format!("{prefix}{name}");
                if self.files[*inode].directory {
                    open.push((*inode, format!("{path}/")));
                    image.directories.push(path);
                } else {
                    // Two names of one file hold the same.
                    let bytes = contents.entry(*inode).or_insert_with(|| content(&path, *inode)).clone();
                    image.files.insert(path, bytes);
                }
            }
        }
        image
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<(Inode, String), Inode>) {
        for (directory, name, inode) in &self.sets {
            match inode {
                Some(inode) => names.insert((*directory, name.clone()), *inode),
                None => names.remove(&(*directory, name.clone())),
            };
        }
    }
}

impl Content {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Bytes { offset, bytes } => put(content, *offset as usize, bytes),
            Self::Length(length) => content.resize(*length as usize, 0),
        }
    }

    /// Only the bytes before a random cut, at a multiple of `grain` in the file.
    fn apply_beginning(&self, content: &mut Vec<u8>, grain: u64, random: &mut Random) {
        if let Self::Bytes { offset, bytes } = self {
            let cut = (offset + random.below(bytes.len() as u64 + 1)) / grain * grain;
            let kept = cut.saturating_sub(*offset) as usize;
            put(content, *offset as usize, &bytes[..kept]);
        }
    }

    /// Each piece between multiples of `grain` with `chance` of four. Returns where the first one is lost that lies behind
    /// `grown_from`, if one is.
    fn apply_pieces(
        &self,
        content: &mut Vec<u8>,
        (grain, chance): (u64, u64),
        grown_from: usize,
        random: &mut Random,
    ) -> Option<usize> {
        let mut gap = None;
        match self {
            Self::Bytes { offset, bytes } => {
                let (mut at, end) = (*offset, offset + bytes.len() as u64);
                while at < end {
                    let next = ((at / grain + 1) * grain).min(end);
                    if random.below(4) < chance {
                        put(content, at as usize, &bytes[(at - offset) as usize..(next - offset) as usize]);
                    } else if next as usize > grown_from && gap.is_none() {
                        gap = Some((at as usize).max(grown_from));
                    }
                    at = next;
                }
            }
            Self::Length(_) if random.below(4) < chance => self.apply(content),
            Self::Length(_) => {}
        }
        gap
    }
}

fn put(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    if content.len() < offset + bytes.len() {
        content.resize(offset + bytes.len(), 0);
    }
    content[offset..offset + bytes.len()].copy_from_slice(bytes);
}

impl Image {
    fn told(self, story: String) -> Self {
        Self { story, ..self }
    }

    /// Writes it below `directory`, which is made. Nothing is synced.
    pub(crate) fn write_to(&self, directory: &Path) {
        fs::create_dir_all(directory).unwrap();
        for path in &self.directories {
            fs::create_dir(directory.join(path)).unwrap();
        }
        for (path, content) in &self.files {
            File::create(directory.join(path)).unwrap().write_all_at(content, 0).unwrap();
        }
    }

    /// As [`Image::write_to`], and durable on return: for a directory that is itself recorded.
    pub(crate) fn write_synced_to(&self, directory: &Path) {
        self.write_to(directory);
        let files = self.files.keys().map(String::as_str);
        let directories = self.directories.iter().rev().map(String::as_str);
        for path in files.chain(directories).chain([".", ".."]) {
            File::open(directory.join(path)).unwrap().sync_all().unwrap();
        }
    }

    /// Only what lies below `prefix`, which ends with `/`.
    pub(crate) fn below(&self, prefix: &str) -> Self {
        let strip = |path: &String| path.strip_prefix(prefix).map(str::to_owned);
        Self {
            directories: self.directories.iter().filter_map(strip).collect(),
            files: self.files.iter().filter_map(|(path, bytes)| Some((strip(path)?, bytes.clone()))).collect(),
            story: self.story.clone(),
        }
    }
}
