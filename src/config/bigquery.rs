//! What the user says of BigQuery: project, region, datasets.

use std::collections::BTreeMap;

/// BigQuery as a sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BigQueryConfig {
    /// The project that has the datasets and pays for jobs.
    pub project: String,
    /// The region or multi-region of the datasets, such as `asia-northeast3` or `US`.
    pub location: String,
    /// The dataset of each database.
    pub dataset: DatasetName,
    /// The Cloud KMS key of datasets and tables that freshet makes, and of what queries keep for a while, as
    /// `projects/…/cryptoKeys/…`.
    pub kms_key: Option<String>,
    /// Labels of datasets, tables and jobs that freshet makes.
    pub labels: BTreeMap<String, String>,
    /// Whether missing datasets and tables are made.
    pub create: Create,
    /// How rows are compressed on their way.
    pub compression: Compression,
    /// The REST API, where it is not Google's own. Where both are plain `http://` no credentials are looked for.
    pub rest_endpoint: Option<String>,
    /// The gRPC API, where it is not Google's own.
    pub grpc_endpoint: Option<String>,
}

/// Whether missing datasets and tables are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Create {
    /// They are made, and given the columns they lack.
    Auto,
    /// They must be there, with every column.
    Never,
}

/// How rows are compressed on their way to BigQuery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// By gzip: a quarter of the bytes (`cargo bench --bench wire`), for as much processor time as all else takes. The default,
    /// as AWS takes money for each byte that leaves it.
    Gzip,
    /// Not at all.
    None,
}

/// A database's dataset: a name in which `{database}` stands for the database's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetName(pub(super) String);

impl DatasetName {
    /// What stands for the database's name.
    pub(super) const DATABASE: &str = "{database}";

    /// The dataset of `database`.
    pub fn of(&self, database: &str) -> String {
        self.0.replace(Self::DATABASE, database)
    }
}

impl Default for DatasetName {
    /// The database's own name.
    fn default() -> Self {
        Self(Self::DATABASE.to_owned())
    }
}
