//! From files to the configuration: read, laid over each other, variables expanded, then resolved.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::Config;
use super::cursor::{Cursor, SourceFile, error_at};
use super::environment::{Refusal, expand_all};
use super::tree::Node;
use super::{excerpt, resolve};
use crate::error::{Error, Result};

/// No configuration file may be larger.
const FILE_BYTES_MAX: u64 = 4 << 20;

impl Config {
    /// Reads the files and lays each over those before it: maps merge, `tables` merge by `name`, everything else
    /// is replaced. `${NAME}` in a text is what `environment` answers to `NAME`; `$${` stands for `${`. The process may
    /// take `room` bytes of memory (None: nobody knows), which bounds what is not written.
    ///
    /// Locations and paths are relative to the folder of the first file.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User), naming the key, the file and the line, where a file cannot be read, a
    /// key is unknown or its value unfit.
    pub fn load(paths: &[PathBuf], environment: impl Fn(&str) -> Option<String>, room: Option<u64>) -> Result<Self> {
        let mut files = Vec::new();
        for path in paths {
            files.push(SourceFile { path: path.clone(), text: read(path)? });
        }
        from_files(&files, &environment, room)
    }
}

/// The configuration that `files` make together; see [`Config::load`].
pub(super) fn from_files(
    files: &[SourceFile],
    environment: &dyn Fn(&str) -> Option<String>,
    room: Option<u64>,
) -> Result<Config> {
    let Some(first) = files.first() else {
        return Err(Error::user("no configuration file is named").hint("name one: -c freshet.yaml"));
    };
    let mut tree: Option<Node> = None;
    for (number, file) in files.iter().enumerate() {
        let node = Node::parse(number, &file.text).map_err(|cause| yaml_error(file, &cause))?;
        resolve::check_table_names(&Cursor::root(files, &node))?;
        match &mut tree {
            None => tree = Some(node),
            Some(tree) => tree.merge(node),
        }
    }
    let mut tree = tree.ok_or_else(|| Error::bug("no configuration file was read"))?;
    let expanded = expand_all(&mut tree, environment);
    expanded.map_err(|(path, refusal)| refusal_error(files, file_of(&path, &tree), &path, &refusal))?;
    let folder = first.path.parent().unwrap_or(Path::new(""));
    resolve::config(&Cursor::root(files, &tree), folder, room)
}

fn read(path: &Path) -> Result<String> {
    let unreadable = |cause: std::io::Error| {
        Error::user("the configuration file cannot be read")
            .in_query(path.display())
            .because(cause)
            .hint("check the path given with -c")
    };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if u64::try_from(bytes.len()).is_ok_and(|bytes| bytes > FILE_BYTES_MAX) {
        return Err(Error::user("the configuration file is larger than 4 MiB")
            .in_query(path.display())
            .hint("is it a data file? A configuration is a short YAML text"));
    }
    String::from_utf8(bytes).map_err(|_| {
        Error::user("the configuration file is not UTF-8 text")
            .in_query(path.display())
            .hint("save it as UTF-8; is it a data file?")
    })
}

fn yaml_error(file: &SourceFile, cause: &serde_yaml_ng::Error) -> Error {
    let error = Error::user(format!("the configuration is not valid YAML: {cause}"))
        .in_query(file.path.display())
        .hint("check indentation and quotes near there; texts with `: `, `#`, `{` or `*` need quotes");
    match cause.location().and_then(|at| excerpt::point(&file.text, at.line(), at.column())) {
        Some(found) => error.at(found.line, found.column, &found.text),
        None => error,
    }
}

/// The file in which the value at the end of `path` stands.
fn file_of(path: &[String], tree: &Node) -> usize {
    path.iter().try_fold(tree, |node, step| node.step(step)).map_or(0, |node| node.file)
}

fn refusal_error(files: &[SourceFile], file: usize, path: &[String], refusal: &Refusal) -> Error {
    match refusal {
        Refusal::Unset(name) => {
            error_at(files, file, path, format!("needs the environment variable `{name}`, which is not set"))
                .hint(format!("set it: export {name}=…; or write `$${{` for a literal `${{`"))
        }
        Refusal::NotAName(text) => error_at(files, file, path, format!("has `{text}`, which is no variable"))
            .hint("write `${NAME}` with letters, digits and `_`; or `$${` for a literal `${`"),
    }
}
