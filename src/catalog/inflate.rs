//! Inflates a whole gzipped file once: to memory below a limit, else to a bounded staging file.
//!
//! Parquet's footer is at its end, so a gzipped Parquet file cannot be read before all of it is inflated.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;

use crate::catalog::content::{Bound, Content, StagedFile};
use crate::catalog::gzip;
use crate::error::{Error, Result};

/// Of a stored file, what is inflated without a pause.
const PIECE: usize = 256 << 10;

/// How much may be inflated, and where to.
#[derive(Debug, Clone)]
pub struct StagingLimits {
    /// A file below this stays in memory, if all such files together stay below `memory_bytes_max`.
    pub file_memory_bytes_max: u64,
    /// Bytes of all files held in memory at once.
    pub memory_bytes_max: u64,
    /// Bytes, stored and inflated together, of all files that are just being inflated in one step; as they are stored they take
    /// at most half of them, and one a quarter. What finds no room is inflated piece by piece.
    pub whole_bytes_max: u64,
    /// No file may be larger than this once inflated.
    pub file_bytes_max: u64,
    /// Bytes of all staging files at once.
    pub staged_bytes_max: u64,
    /// Where staging files go; None: the system's folder for temporary files.
    pub folder: Option<PathBuf>,
}

/// Space for inflated files, shared by all tables.
#[derive(Debug, Clone)]
pub struct Staging {
    limits: StagingLimits,
    memory: Arc<AtomicU64>,
    whole: Arc<AtomicU64>,
    staged: Arc<AtomicU64>,
}

impl Staging {
    /// Space within these limits.
    pub fn new(limits: StagingLimits) -> Self {
        Self { limits, memory: Arc::default(), whole: Arc::default(), staged: Arc::default() }
    }

    /// The same space, for what leaves half of the staging files' room to others.
    pub fn half(&self) -> Self {
        let limits = StagingLimits { staged_bytes_max: self.limits.staged_bytes_max / 2, ..self.limits.clone() };
        Self { limits, ..self.clone() }
    }

    /// Takes in one file, chunk by chunk, of so many bytes; `gzip` says whether it must be inflated.
    pub fn intake(&self, gzip: bool, size: u64) -> Intake {
        let stage = match gzip {
            true => self.gathered(size).unwrap_or_else(|| Stage::Inflate(self.decoder())),
            false => Stage::Copy(Box::new(self.buffer())),
        };
        Intake { staging: self.clone(), stage }
    }

    /// Takes in one file of so many bytes as it is stored, in memory; None where there is no room. Half of the memory is left
    /// to what must be inflated.
    pub fn kept(&self, size: u64) -> Option<Intake> {
        let (stored, bound) = room(&self.memory, size, self.limits.memory_bytes_max / 2)?;
        Some(Intake { staging: self.clone(), stage: Stage::Keep(stored, bound) })
    }

    /// Room for all of the stored file, if there is some.
    fn gathered(&self, size: u64) -> Option<Stage> {
        let bytes_max = self.limits.whole_bytes_max;
        if size > bytes_max / 4 {
            return None;
        }
        let (stored, bound) = room(&self.whole, size, bytes_max / 2)?;
        Some(Stage::Gather(stored, bound))
    }

    /// Bytes held for files that are inflated in one step.
    #[cfg(test)]
    pub(crate) fn held_whole(&self) -> u64 {
        self.whole.load(std::sync::atomic::Ordering::Acquire)
    }

    fn decoder(&self) -> Box<Decoder> {
        Box::new(Decoder::new(self.buffer()))
    }

    fn buffer(&self) -> Buffer {
        Buffer {
            staging: self.clone(),
            memory: Vec::new(),
            memory_bound: Bound::new(Arc::clone(&self.memory)),
            staged: None,
            staged_bound: Bound::new(Arc::clone(&self.staged)),
            written: 0,
            refused: None,
        }
    }
}

/// Room for so many bytes, if with all that `used` counts they are no more than `max`.
fn room(used: &Arc<AtomicU64>, bytes: u64, max: u64) -> Option<(Vec<u8>, Bound)> {
    let mut bound = Bound::new(Arc::clone(used));
    let has_room = bound.try_grow(bytes, max);
    Some((Vec::with_capacity(usize::try_from(bytes).ok().filter(|_| has_room)?), bound))
}

/// One file on its way into memory or a staging file.
pub struct Intake {
    staging: Staging,
    stage: Stage,
}

enum Stage {
    /// As it is stored, to be inflated in one step.
    Gather(Vec<u8>, Bound),
    /// As it is stored.
    Keep(Vec<u8>, Bound),
    /// Piece by piece.
    Inflate(Box<Decoder>),
    Copy(Box<Buffer>),
}

type Decoder = flate2::write::MultiGzDecoder<Buffer>;

impl Intake {
    /// Takes the next bytes of the stored file.
    ///
    /// # Errors
    /// [`Data`](crate::error::Kind::Data) where they are not gzip or inflate to too much,
    /// [`Retry`](crate::error::Kind::Retry) where there is no room for them now.
    pub fn push(&mut self, chunk: &[u8]) -> Result<()> {
        match &mut self.stage {
            Stage::Gather(stored, _) | Stage::Keep(stored, _) => append(stored, chunk),
            Stage::Inflate(decoder) => inflate_piece(decoder, chunk),
            Stage::Copy(buffer) => buffer.take(chunk),
        }
    }

    /// The whole file.
    ///
    /// # Errors
    /// As [`push`](Self::push); also where the gzip stream is cut off.
    pub async fn finish(self) -> Result<Content> {
        match self.stage {
            Stage::Gather(stored, bound) => inflate_gathered(&self.staging, &stored, bound).await,
            Stage::Inflate(decoder) => inflated(decoder),
            Stage::Keep(stored, bound) => Ok(Content::memory(Bytes::from(stored), bound)),
            Stage::Copy(buffer) => buffer.into_content(),
        }
    }
}

/// Room was made for as many bytes as the file has.
fn append(stored: &mut Vec<u8>, chunk: &[u8]) -> Result<()> {
    if chunk.len() > stored.capacity() - stored.len() {
        return Err(Error::retry("the store sent more bytes than the file has"));
    }
    stored.extend_from_slice(chunk);
    Ok(())
}

/// In one step, where there is room for it and the way is sure.
async fn inflate_gathered(staging: &Staging, stored: &[u8], mut bound: Bound) -> Result<Content> {
    if let Some(whole) = gzip::inflate(stored, |length| bound.try_grow(length, staging.limits.whole_bytes_max)) {
        let mut buffer = staging.buffer();
        buffer.take_whole(whole)?;
        return buffer.into_content();
    }
    let mut decoder = staging.decoder();
    for piece in stored.chunks(PIECE) {
        inflate_piece(&mut decoder, piece)?;
        // It may inflate to much more, and others wait for this thread.
        tokio::task::yield_now().await;
    }
    inflated(decoder)
}

fn inflate_piece(decoder: &mut Decoder, piece: &[u8]) -> Result<()> {
    decoder.write_all(piece).map_err(|cause| decoder.get_mut().refused.take().unwrap_or_else(|| not_gzip(cause)))
}

fn inflated(mut decoder: Box<Decoder>) -> Result<Content> {
    match decoder.try_finish() {
        Ok(()) => decoder.finish().map_err(not_gzip)?.into_content(),
        Err(cause) => Err(decoder.get_mut().refused.take().unwrap_or_else(|| not_gzip(cause))),
    }
}

fn not_gzip(cause: std::io::Error) -> Error {
    Error::data("the file is not whole gzip data")
        .because(cause)
        .hint("it may be cut off, still being written, or not gzipped although its name ends in .gz")
}

/// Where inflated bytes go; turns from memory to a file when it grows.
struct Buffer {
    staging: Staging,
    memory: Vec<u8>,
    memory_bound: Bound,
    staged: Option<tempfile::NamedTempFile>,
    staged_bound: Bound,
    written: u64,
    refused: Option<Error>,
}

impl Buffer {
    fn take(&mut self, data: &[u8]) -> Result<()> {
        let limits = &self.staging.limits;
        let more = data.len() as u64;
        if self.written + more > limits.file_bytes_max {
            return Err(Error::data(format!("the file inflates to more than {} bytes", limits.file_bytes_max))
                .hint("if such files are expected, raise pipeline_config.inflate_max"));
        }
        if self.staged.is_none() {
            let small = self.written + more <= limits.file_memory_bytes_max;
            if small && self.memory_bound.try_grow(more, limits.memory_bytes_max) {
                self.memory.extend_from_slice(data);
                self.written += more;
                return Ok(());
            }
            self.start_file()?;
        }
        self.append_to_file(data)
    }

    /// All that there is.
    fn take_whole(&mut self, data: Vec<u8>) -> Result<()> {
        let (bytes, limits) = (data.len() as u64, &self.staging.limits);
        let small = bytes <= limits.file_memory_bytes_max.min(limits.file_bytes_max);
        if small && self.memory_bound.try_grow(bytes, limits.memory_bytes_max) {
            (self.memory, self.written) = (data, bytes);
            return Ok(());
        }
        self.take(&data)
    }

    fn start_file(&mut self) -> Result<()> {
        let limits = &self.staging.limits;
        let file = match &limits.folder {
            Some(folder) => tempfile::NamedTempFile::new_in(folder),
            None => tempfile::NamedTempFile::new(),
        };
        self.staged = Some(file.map_err(|cause| no_room(limits.folder.as_ref(), cause))?);
        let memory = std::mem::take(&mut self.memory);
        self.written = 0;
        self.append_to_file(&memory)?;
        self.memory_bound.release();
        Ok(())
    }

    fn append_to_file(&mut self, data: &[u8]) -> Result<()> {
        let limits = &self.staging.limits;
        let more = data.len() as u64;
        if !self.staged_bound.try_grow(more, limits.staged_bytes_max) {
            return Err(Error::retry(format!("staging files would exceed {} bytes", limits.staged_bytes_max))
                .hint("lower pipeline_config.batch_bytes or tables_at_once, or raise inflate_max, of which all staging files together may take eight times"));
        }
        let file = self.staged.as_mut().ok_or_else(|| Error::bug("no staging file was opened"))?;
        file.write_all(data).map_err(|cause| no_room(limits.folder.as_ref(), cause))?;
        self.written += more;
        Ok(())
    }

    fn into_content(self) -> Result<Content> {
        match self.staged {
            None => Ok(Content::memory(Bytes::from(self.memory), self.memory_bound)),
            Some(file) => Ok(Content::Staged(Arc::new(StagedFile::new(file, self.written, self.staged_bound)))),
        }
    }
}

fn no_room(folder: Option<&PathBuf>, cause: std::io::Error) -> Error {
    let folder = folder.cloned().unwrap_or_else(std::env::temp_dir);
    Error::retry(format!("a staging file in {} cannot be written", folder.display()))
        .because(cause)
        .hint("free some disk space, or name another folder as pipeline_config.staging")
}

impl Write for Buffer {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        match self.take(data) {
            Ok(()) => Ok(data.len()),
            Err(error) => {
                self.refused = Some(error);
                Err(std::io::Error::other("refused"))
            }
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
