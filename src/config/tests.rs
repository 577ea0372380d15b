//! The configuration through its front door: YAML in, configuration or report out.

use std::path::Path;

use super::cursor::SourceFile;
use super::*;
use crate::error::Kind;

fn load(files: &[(&str, &str)]) -> Result<Config> {
    load_within(None, files)
}

fn load_within(room: Option<u64>, files: &[(&str, &str)]) -> Result<Config> {
    let files: Vec<_> =
        files.iter().map(|(path, text)| SourceFile { path: PathBuf::from(path), text: (*text).to_owned() }).collect();
    let environment = |name: &str| match name {
        "BUCKET" => Some("s3://hidden-bucket".to_owned()),
        "TABLE" => Some("orders".to_owned()),
        "COUNT" => Some("7".to_owned()),
        "WORD" => Some("hidden-word".to_owned()),
        _ => None,
    };
    load::from_files(&files, &environment, room)
}

/// What a configuration of one file says about something; the source need not be written.
fn check<T: std::fmt::Debug + PartialEq>(yaml: &str, what: impl Fn(&Config) -> T, expected: T) {
    let text = format!("source: data\n{yaml}");
    match load(&[("conf/freshet.yaml", &text)]) {
        Ok(config) => assert_eq!(what(&config), expected, "{yaml}"),
        Err(error) => panic!("{yaml}\n{}", error.report()),
    }
}

/// The message, the line and column, and a piece of the hint with which a configuration is refused.
fn refuse(yaml: &str, message: &str, place: Option<(u64, u64)>, hint: &str) {
    let text = format!("source: data\n{yaml}");
    let error = load(&[("conf/freshet.yaml", &text)]).expect_err(yaml);
    assert_eq!(error.kind(), Kind::User, "{yaml}");
    assert_eq!(error.message(), message, "{yaml}");
    assert_eq!(error.place().line_column, place, "{yaml}\n{}", error.report());
    assert_eq!(error.place().query.as_deref(), Some("conf/freshet.yaml"), "{yaml}");
    assert!(error.hint_text().unwrap_or_default().contains(hint), "{yaml}\n{}", error.report());
    assert!(!error.report().contains("hidden-"), "{}", error.report());
}

fn table(config: &Config, database: &str, table: &str) -> TableConfig {
    config.table(&TableName::new(database, table)).expect("the table is listed").clone()
}

/// A table `shop.orders` with these keys.
fn orders(keys: &str) -> String {
    format!("databases: {{shop: {{tables: [{{name: orders, {keys}}}]}}}}")
}

#[test]
fn the_old_table_mappings_load_unchanged() {
    let old = r#"
databases:
  casino_db1:
    tables:
      - name: user_actions
        schema_override: {user_id: INTEGER, action_type: STRING, timestamp: TIMESTAMP}
      - name: game_sessions
        auto_schema: true
      - name: plain
pipeline_config:
  batch_size: 1000            # most change files in a batch
  retry_attempts: 3           # tries before a file is set aside (data errors only)
  error_threshold: 0.1
  notification_channels:
    - slack_webhook: "https://hooks.slack.com/..."
    - email: "data-team@company.com"
"#;
    check(old, |config| config.tables.len(), 3);
    check(
        old,
        |config| table(config, "casino_db1", "user_actions").schema_override.into_iter().collect::<Vec<_>>(),
        vec![
            ("action_type".to_owned(), ColumnType::String),
            ("timestamp".to_owned(), ColumnType::Timestamp),
            ("user_id".to_owned(), ColumnType::Int64),
        ],
    );
    check(old, |config| table(config, "casino_db1", "plain").auto_schema, true);
    check(old, |config| (config.pipeline.limits.files_max, config.pipeline.retry_attempts), (1000, 3));
    check(
        old,
        |config| config.pipeline.notification_channels.clone(),
        vec![
            NotificationChannel::SlackWebhook("https://hooks.slack.com/...".to_owned()),
            NotificationChannel::Email("data-team@company.com".to_owned()),
        ],
    );
}

#[test]
fn what_is_not_written_has_its_default() {
    for yaml in ["", "# nothing else\n", "sink:\ndatabases:\npipeline_config: {}\ndefaults: ~"] {
        check(yaml, |config| config.source.files.clone(), "conf/data".to_owned());
        check(yaml, |config| config.queries.clone(), PathBuf::from("conf/queries"));
        check(yaml, |config| config.pipeline.limits.bytes_max, 256 << 20);
        check(yaml, |config| config.pipeline.limits.age_max, Duration::from_millis(200));
        check(yaml, |config| config.pipeline.memory_bytes, 512 << 20);
        check(yaml, |config| config.unlisted.is_some(), true);
        check(yaml, |config| config.sink().is_err() && config.ledger().is_err(), true);
    }
}

#[test]
fn locations_are_relative_to_the_folder_of_the_first_file_and_urls_stay() {
    let local = "sink: {delta: ./lake}\nqueries: sql\npipeline_config: {staging: /tmp/x}";
    check(local, |config| config.sink.clone(), Some(SinkConfig::Delta { location: "conf/./lake".to_owned() }));
    check(local, |config| config.ledger().ok().map(str::to_owned), Some("conf/./lake/_freshet_ledger".to_owned()));
    check(local, |config| config.queries.clone(), PathBuf::from("conf/sql"));
    check(local, |config| config.pipeline.staging.clone(), Some(PathBuf::from("/tmp/x")));
    let remote = "sink: {delta: '${BUCKET}/lake'}";
    check(
        remote,
        |config| config.sink.clone(),
        Some(SinkConfig::Delta { location: "s3://hidden-bucket/lake".to_owned() }),
    );
    check(remote, |config| config.ledger().is_err(), true);
    check("ledger: ledger", |config| config.ledger().ok().map(str::to_owned), Some("conf/ledger".to_owned()));
    check("sink: {delta: 'file:///l/'}", |config| config.ledger.clone(), Some("file:///l/_freshet_ledger".to_owned()));

    let first = Path::new("a/one.yaml").display().to_string();
    let config = load(&[(&first, "source: {files: x}"), ("b/two.yaml", "queries: y")]).unwrap();
    assert_eq!((config.source.files.as_str(), config.queries), ("a/x", PathBuf::from("a/y")));
}

#[test]
fn a_table_takes_its_own_keys_before_the_defaults_before_the_built_in_ones() {
    let yaml = r"
defaults: {mode: merge, key: id, timestamp_column: ts, order: exact, csv: {'null': '\N', delimiter: ;}}
databases:
  shop:
    tables:
      - {name: orders}
      - {name: lines, key: [order_id, line], mode: append, timestamp_column: null, csv: {columns: [Op, id]}}
";
    let (orders, lines) = (|c: &Config| table(c, "shop", "orders"), |c: &Config| table(c, "shop", "lines"));
    check(yaml, |c| orders(c).key, Some(vec!["id".to_owned()]));
    check(yaml, |c| (orders(c).mode, orders(c).order, orders(c).on_delete), {
        (Some(Mode::Merge), Order::Exact, OnDelete::Remove)
    });
    check(yaml, |c| lines(c).key, Some(vec!["order_id".to_owned(), "line".to_owned()]));
    check(yaml, |c| (lines(c).mode, lines(c).timestamp_column), (Some(Mode::Append), None));
    check(yaml, |c| (orders(c).csv.header, orders(c).csv.null), (true, r"\N".to_owned()));
    check(yaml, |c| (lines(c).csv.header, lines(c).csv.null, lines(c).csv.delimiter), (false, r"\N".to_owned(), ';'));
    check(yaml, |c| c.table(&TableName::new("shop", "other")).is_none(), true);
}

#[test]
fn csv_null_is_a_key_although_yaml_reads_it_as_nothing() {
    check("defaults: {csv: {null: ''}}", |c| c.unlisted.clone().map(|t| t.csv.null), Some(String::new()));
    check("defaults: {csv: {null: NULL}}", |c| c.unlisted.clone().map(|t| t.csv.null), Some("NULL".to_owned()));
    check("defaults: {csv: {delimiter: \"\\t\"}}", |c| c.unlisted.clone().map(|t| t.csv.delimiter), Some('\t'));
}

#[test]
fn a_target_is_a_table_or_a_dataset_and_a_table() {
    check(&orders("target: bought"), |c| table(c, "shop", "orders").target, Some(TableName::new("shop", "bought")));
    check(&orders("target: a.b"), |c| table(c, "shop", "orders").target, Some(TableName::new("a", "b")));
    for target in ["a.b.c", ".b", "a."] {
        refuse(
            &orders(&format!("target: {target}")),
            &format!("`databases.shop.tables[orders].target` takes `table` or `dataset.table`, not `{target}`"),
            Some((2, 44)),
            "",
        );
    }
}

#[test]
fn a_table_is_found_exactly_else_by_case_alone_if_only_one_is_like_it() {
    let yaml = "databases: {Shop: {tables: [{name: Orders, target: a.x}, {name: orders, target: a.y}, {name: Users}]}}";
    let target = |name: &'static str| {
        move |c: &Config| c.table(&TableName::new("Shop", name)).and_then(|t| t.target.clone()).map(|t| t.table)
    };
    check(yaml, target("Orders"), Some("x".to_owned()));
    check(yaml, target("orders"), Some("y".to_owned()));
    check(yaml, target("ORDERS"), None);
    check(yaml, |c| c.table(&TableName::new("shop", "uSERS")).is_some(), true);
    check("", |c| c.table(&TableName::new("shop", "anything")).is_some(), true);
}

#[test]
fn later_files_win_maps_merge_tables_merge_by_name_other_lists_are_replaced() {
    let base = "
source: {files: prod, layout: '{database}/{table}/{*}.csv'}
defaults: {mode: merge, csv: {delimiter: ;}}
databases: {shop: {tables: [{name: orders, key: [a, b]}, {name: users, key: id}]}}
pipeline_config: {batch_size: 10, memory: 1GiB}
";
    let dev = "
source: {files: dev}
defaults: {csv: {header: true}}
databases: {shop: {tables: [{name: orders, key: [c]}, {name: more}]}, bar: {tables: [{name: x}]}}
pipeline_config: {batch_size: 20}
";
    let config = load(&[("base.yaml", base), ("dev.yaml", dev)]).unwrap();
    assert_eq!((config.source.files.as_str(), config.source.layout.is_some()), ("dev", true));
    assert_eq!(config.tables.keys().map(ToString::to_string).collect::<Vec<_>>(), {
        ["bar.x", "shop.more", "shop.orders", "shop.users"]
    });
    let orders = table(&config, "shop", "orders");
    assert_eq!((orders.key, orders.mode, orders.csv.delimiter), (Some(vec!["c".to_owned()]), Some(Mode::Merge), ';'));
    assert_eq!((config.pipeline.limits.files_max, config.pipeline.memory_bytes), (20, 1 << 30));

    let error = load(&[("base.yaml", base), ("dev.yaml", "\npipeline_config: {batch_size: x}")]).unwrap_err();
    assert_eq!(error.place().to_string(), "dev.yaml:2:19");
}

#[test]
fn an_unknown_key_is_told_with_its_place_and_the_nearest_known_one() {
    refuse("sinc: {delta: x}", "`sinc` is not a known key", Some((2, 1)), "did you mean `sink`?");
    refuse(
        "source:\n  file: x",
        "the configuration is not valid YAML: the key `source` is written twice",
        Some((1, 1)),
        "",
    );
    refuse(
        &orders("qurey: x"),
        "`databases.shop.tables[orders].qurey` is not a known key",
        Some((2, 44)),
        "did you mean `query`?",
    );
    refuse(
        "sink: {kafka: x}",
        "`sink.kafka` is not a known key",
        Some((2, 8)),
        "known keys here: `delta` and `bigquery`",
    );
    refuse("defaults: {target: x}", "`defaults.target` is not a known key", Some((2, 12)), "`key`");
    refuse(
        "databases: {shop: {table: []}}",
        "`databases.shop.table` is not a known key",
        Some((2, 20)),
        "did you mean `tables`?",
    );
    refuse(
        "pipeline_config:\n  notification_channels:\n    - slack: https://hidden-hook",
        "`pipeline_config.notification_channels[0].slack` is not a known key",
        Some((4, 7)),
        "did you mean `slack_webhook`?",
    );
}

#[test]
fn a_value_of_the_wrong_type_is_told_with_what_is_allowed() {
    let start = "`databases.shop.tables[orders].";
    for (keys, message) in [
        ("key: 5", "key` takes a column's name, or a list of them, not the number 5"),
        ("key: []", "key` is an empty list"),
        ("key: ''", "key` takes a column's name, or a list of them, and is empty"),
        ("key: [id, ID]", "key` names a column twice"),
        ("mode: upsert", "mode` takes `append` or `merge`, not `upsert`"),
        ("mode: '${WORD}'", "mode` takes `append` or `merge`, not `${WORD}`"),
        ("order: [exact]", "order` takes `best_effort` or `exact`, not a list"),
        ("on_delete: true", "on_delete` takes `remove` or `mark`, not `true`"),
        ("auto_schema: 1", "auto_schema` takes `true` or `false`, not the number 1"),
    ] {
        refuse(&orders(keys), &format!("{start}{message}"), Some((2, 44)), "");
    }
    for (keys, message) in [
        ("schema_override: {a: STIRNG}", "schema_override.a` takes a column's type, not `STIRNG`"),
        ("schema_override: {a: '${WORD}'}", "schema_override.a` takes a column's type, not `${WORD}`"),
    ] {
        refuse(&orders(keys), &format!("{start}{message}"), Some((2, 62)), "STRING");
    }
    let character = "csv.delimiter` takes a single ASCII character that is no quote and no line end, not";
    for delimiter in ["'||'", "é", "'\"'"] {
        let shown = delimiter.trim_matches('\'');
        let yaml = orders(&format!("csv: {{delimiter: {delimiter}}}"));
        refuse(&yaml, &format!("{start}{character} `{shown}`"), Some((2, 50)), "a tab");
    }
}

#[test]
fn limits_are_checked() {
    for (keys, message) in [
        ("batch_size: 0", "batch_size` takes a whole number from 1 on, not the number 0"),
        ("batch_rows: -1", "batch_rows` takes a whole number from 1 on, not the number -1"),
        ("retry_attempts: 5000000000", "retry_attempts` takes a whole number from 1 on, not the number 5000000000"),
        ("error_threshold: 1.5", "error_threshold` takes a number from 0 to 1, not the number 1.5"),
        ("error_threshold: .nan", "error_threshold` takes a number from 0 to 1, not the number NaN"),
        ("batch_age: 5", "batch_age` takes a duration such as `250ms`, `5s` or `1m`, not the number 5"),
        ("memory: 1.5GB", "memory` takes a size such as `512MiB`, `1GB` or a plain number of bytes, not `1.5GB`"),
        ("memory: 0", "memory` takes a size such as `512MiB`, `1GB` or a plain number of bytes, not the number 0"),
    ] {
        refuse(&format!("pipeline_config: {{{keys}}}"), &format!("`pipeline_config.{message}"), Some((2, 19)), "");
    }
    refuse(
        "pipeline_config: {memory: 100, table_memory_min: 30, tables_at_once: 4}",
        "`pipeline_config` gives 4 tables at least 30 bytes each, more than `memory` of 100 bytes",
        Some((2, 1)),
        "lower `tables_at_once`",
    );
    check("pipeline_config: {error_threshold: 1, batch_size: '${COUNT}'}", |c| c.pipeline.limits.files_max, 7);
}

#[test]
fn what_is_not_written_fits_the_memory_that_is_and_the_machine() {
    let limits = |room: Option<u64>, keys: &str| {
        let text = format!("source: data\n{keys}");
        let limits = load_within(room.map(|mib| mib << 20), &[("freshet.yaml", &text)]).unwrap().pipeline;
        (limits.memory_bytes >> 20, limits.table_memory_bytes_min >> 20, limits.inflate_memory_bytes_max >> 20)
    };
    let written = |keys: &str| format!("pipeline_config: {{{keys}}}");
    for (room, expected) in
        [(None, (512, 32, 64)), (Some(16 << 10), (512, 32, 64)), (Some(512), (128, 32, 16)), (Some(128), (32, 8, 4))]
    {
        assert_eq!(limits(room, ""), expected);
        assert_eq!(limits(room, &written("batch_size: 7")), expected);
    }
    for room in [None, Some(128)] {
        assert_eq!(limits(room, &written("memory: 64MiB, tables_at_once: 8")), (64, 8, 8));
    }
    assert_eq!(limits(Some(128), &written("inflate_memory: 256MiB")), (256, 32, 256));
    assert_eq!(limits(Some(128), &written("table_memory_min: 32MiB, tables_at_once: 8")), (256, 32, 32));
}

#[test]
fn a_horizon_that_means_nothing_or_leaves_no_room_is_refused() {
    let start = "`databases.shop.tables[orders]";
    for keys in ["mode: append, late_horizon: 30d", "on_delete: mark, late_horizon: 30d"] {
        let said = format!("{start}.late_horizon` means nothing where no tombstones are kept");
        refuse(&orders(keys), &said, Some((2, 58 + 3 * u64::from(keys.starts_with("on")))), "on_delete: remove");
    }
    let bounds = "is not between 15 and 36500 days";
    for wrong in ["14d", "0s", "36501d"] {
        let keys = format!("late_horizon: {wrong}");
        refuse(&orders(&keys), &format!("{start}.late_horizon` {bounds}"), Some((2, 44)), "set aside");
        let defaults = format!("defaults: {{{keys}}}\n{}", orders("key: id"));
        refuse(
            &defaults,
            &format!("{start}` has by default a `late_horizon` that {bounds}"),
            Some((3, 30)),
            "set aside",
        );
    }
    let never = "sink: {bigquery: {project: p, location: EU, create: never}}\nledger: l\n";
    refuse(
        &format!("{never}{}", orders("late_horizon: 30d")),
        "`sink.bigquery.create` leaves the live views to people, where tables with a `late_horizon` need them made anew \
         at each purge",
        Some((2, 45)),
        "create: auto",
    );
    let defaults = format!("defaults: {{late_horizon: 30d}}\n{}", orders("mode: append"));
    check(&defaults, |c| table(c, "shop", "orders").late_horizon, Some(Duration::from_secs(30 * 24 * 3_600)));
}

#[test]
fn keys_that_contradict_each_other_are_refused() {
    let start = "`databases.shop.tables[orders]";
    refuse(
        &orders("mode: append, on_delete: mark"),
        &format!("{start}.on_delete` means nothing in mode `append`, which keeps deletes as rows"),
        Some((2, 58)),
        "mode: merge",
    );
    check(
        &format!("defaults: {{on_delete: mark}}\n{}", orders("mode: append")),
        |c| table(c, "shop", "orders").mode,
        Some(Mode::Append),
    );
    refuse(
        &orders("csv: {header: false}"),
        &format!("{start}` says `header: false` under `csv`, and nothing names the columns"),
        Some((2, 30)),
        "columns:",
    );
    refuse(
        &orders("auto_schema: false"),
        &format!("{start}` has `auto_schema: false` without `schema_override`, so SQL would see no column"),
        Some((2, 30)),
        "schema_override",
    );
    let two =
        |one: &str, two: &str| format!("databases: {{shop: {{tables: [{{name: a, {one}}}, {{name: b, {two}}}]}}}}");
    refuse(
        &two("target: X", "target: x"),
        "`databases.shop.tables[b]` writes the same target as `databases.shop.tables[a]`",
        Some((2, 52)),
        "another `target`",
    );
    check(&two("mode: append", "target: a_changes, mode: append"), |c| c.tables.len(), 2);
    refuse(
        &two("mode: append", "target: a_changes"),
        "`databases.shop.tables[b]` writes the same target as `databases.shop.tables[a]`",
        Some((2, 55)),
        "",
    );
}

#[test]
fn a_table_written_twice_is_refused_in_one_file_and_merged_over_two() {
    let yaml = "databases:\n  shop:\n    tables:\n      - name: a\n      - name: a\n";
    refuse(yaml, "`databases.shop.tables[a]` is listed twice", Some((5, 9)), "once");
    let file = "source: x\ndatabases: {shop: {tables: [{name: a}]}}";
    assert_eq!(load(&[("a", file), ("b", file)]).unwrap().tables.len(), 1);
    let twice = "databases: {shop: {tables: [{name: orders}, {name: '${TABLE}'}]}}";
    refuse(twice, "`databases.shop.tables[${TABLE}]` is listed twice", Some((2, 46)), "once");
}

#[test]
fn a_variable_that_is_not_set_is_told_with_its_key() {
    refuse(
        "sink: {delta: '${NOPE}/x'}",
        "`sink.delta` needs the environment variable `NOPE`, which is not set",
        Some((2, 8)),
        "export NOPE",
    );
    let first = ("base.yaml", "source: '${NOPE}'");
    assert!(load(&[first, ("dev.yaml", "source: x")]).is_ok(), "what is replaced need not be set");
    assert_eq!(load(&[first]).unwrap_err().place().to_string(), "base.yaml:1:1");
}

#[test]
fn secrets_stay_out_of_messages_and_debug_output() {
    let yaml = "pipeline_config: {notification_channels: [{slack_webhook: 'http://hidden-1'}]}";
    let message =
        "`pipeline_config.notification_channels[0].slack_webhook` takes an https:// URL, not what is written there";
    refuse(yaml, message, Some((2, 44)), "");
    let yaml = "pipeline_config: {notification_channels: [{slack_webhook: 'https://hidden-1'}, {email: hidden-2@x}]}";
    check(yaml, |c| format!("{:?}", c.pipeline).contains("hidden-"), false);
}

#[test]
fn source_is_required_and_the_report_says_what_to_write() {
    let error = load(&[("f.yaml", "sink: {delta: x}")]).unwrap_err();
    assert_eq!(error.report(), {
        "the configuration names no `source`\n  at f.yaml\nhint: write where change files are, for example `source: \
         ./data` or `source: {files: ./data}`"
    });
    let error = load(&[("f.yaml", "source: {layout: x}")]).unwrap_err();
    assert_eq!(error.message(), "`source` has no `files`");
    assert_eq!(load(&[]).unwrap_err().kind(), Kind::User);
    let report = load(&[("f.yaml", "source: x")]).unwrap().sink().unwrap_err().report();
    assert!(report.contains("sink: {delta: ./lake}"), "{report}");
}

#[test]
fn anchors_and_merge_keys_are_followed_and_no_yaml_brings_it_down() {
    check(
        "databases: {shop: {tables: [&a {name: a, key: id}, {<<: *a, name: b}]}}",
        |c| table(c, "shop", "b").key,
        Some(vec!["id".to_owned()]),
    );
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..12 {
        bomb.push_str(&format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 10].join(", ")));
    }
    let deep = format!("x: {}", "[".repeat(10_000));
    let broken = [
        "a: [",
        "\t",
        "*x",
        "? [a]\n: b",
        "1: 2",
        "true: x",
        "!tag x",
        "a: !!binary x",
        "- a",
        "just text",
        "{",
        "\u{0}",
        "a: &a [*a]",
        "x: 340282366920938463463374607431768211456",
        "---\na: 1\n---\nb: 2",
        "<<: 5",
        "databases: [1]",
        "databases: {a: 1}",
        "databases: {a: {tables: {}}}",
        "databases: {a: {tables: [1]}}",
        "databases: {a: {tables: [{key: x}]}}",
        "source: 5",
        "databases: {a: {tables: [{name: [x]}]}}",
        "defaults: []",
        "sink: x",
        "pipeline_config: {notification_channels: x}",
        &bomb,
        &deep,
    ];
    for yaml in broken {
        let error = load(&[("f.yaml", yaml)]).expect_err(yaml);
        assert_eq!(error.kind(), Kind::User, "{yaml}");
    }
}

#[test]
fn files_are_read_from_disk_up_to_4_mib() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("freshet.yaml");
    std::fs::write(&path, "source: data").unwrap();
    let config = Config::load(std::slice::from_ref(&path), |_| None, None).unwrap();
    assert_eq!(config.source.files, folder.path().join("data").to_str().unwrap());
    for (content, message) in [
        (vec![b' '; (4 << 20) + 1], "the configuration file is larger than 4 MiB"),
        (vec![0xff], "the configuration file is not UTF-8 text"),
    ] {
        std::fs::write(&path, content).unwrap();
        assert_eq!(Config::load(std::slice::from_ref(&path), |_| None, None).unwrap_err().message(), message);
    }
    assert!(Config::load(&[folder.path().join("none.yaml")], |_| None, None).unwrap_err().hint_text().is_some());
}

#[test]
fn verbs_without_a_configuration_get_every_table_with_the_defaults() {
    let config = Config::for_folder("data/**/*.parquet");
    assert_eq!(config.source.files, "data/**/*.parquet");
    assert!(config.table(&TableName::new("any", "table")).is_some());
    assert!(config.sink().is_err());
}

/// What a configuration whose source is written says about something.
fn sourced<T: std::fmt::Debug + PartialEq>(source: &str, what: impl Fn(&SourceConfig) -> T, expected: T) {
    match load(&[("conf/freshet.yaml", source)]) {
        Ok(config) => assert_eq!(what(&config.source), expected, "{source}"),
        Err(error) => panic!("{source}\n{}", error.report()),
    }
}

#[test]
fn a_dms_task_is_known_by_its_arn_and_one_or_several_are_taken() {
    let regions = |source: &SourceConfig| source.dms_tasks.iter().map(|task| task.region.clone()).collect::<Vec<_>>();
    let source = |tasks: &str| format!("source: {{files: data, dms_tasks: {tasks}}}");
    sourced(&source("arn:aws:dms:eu-west-1:1:task:A"), regions, vec!["eu-west-1".to_owned()]);
    let two = "['arn:aws:dms:eu-west-1:1:task:A', 'arn:aws-cn:dms:cn-north-1:1:task:B']";
    sourced(&source(two), regions, vec!["eu-west-1".to_owned(), "cn-north-1".to_owned()]);
    for wrong in [
        "ABC",
        "arn:aws:sqs:eu-west-1:1:q",
        "arn:aws:dms:eu/west:1:task:A",
        "arn:aws:dms:eu-west-1:1:rep:X",
        "'arn:aws:dms:eu-west-1:1:task:'",
    ] {
        let error = load(&[("conf/freshet.yaml", source(wrong).as_str())]).unwrap_err().report();
        assert!(error.contains("dms_tasks") && error.contains("ARNs of DMS tasks"), "{error}");
    }
}

#[test]
fn a_queue_tells_of_objects_and_since_says_from_which_on() {
    let queue = "https://sqs.eu-west-1.amazonaws.com/1/dms";
    let source = |rest: &str| format!("source: {{files: s3://b/cdc, queue: {queue}/, {rest}}}");
    sourced(&source("since: now"), |source| source.queue.clone(), Some(queue.to_owned()));
    sourced(&source("since: now, sweep: 1h"), |source| source.sweep, Some(Duration::from_secs(3_600)));
    for (text, since) in [
        ("beginning", Since::Beginning),
        ("now", Since::Now),
        ("2026-01-31T09:00:00+09:00", Since::Time("2026-01-31T00:00:00Z".parse().unwrap())),
    ] {
        sourced(&source(&format!("since: {text}")), |source| source.since, Some(since));
    }
}

#[test]
fn a_source_that_says_too_little_or_too_much_is_refused() {
    let refuse = |source: &str, message: &str, hint: &str| {
        let error = load(&[("conf/freshet.yaml", source)]).expect_err(source);
        assert!(error.message().contains(message), "{}", error.report());
        assert!(error.hint_text().unwrap_or_default().contains(hint), "{}", error.report());
        assert!(error.place().line_column.is_some(), "{}", error.report());
    };
    let queue = "queue: https://sqs.eu-west-1.amazonaws.com/1/dms";
    refuse(&format!("source: {{files: s3://b/c, {queue}}}"), "nothing says from which files on", "since: beginning");
    refuse(&format!("source: {{files: ./data, {queue}, since: now}}"), "tells of objects in S3", "s3://BUCKET");
    refuse("source: {files: ./data, since: now}", "known for objects in S3 alone", "remove it");
    refuse("source: {files: s3://b, queue: dms, since: now}", "takes an SQS queue's URL", "");
    refuse("source: {files: s3://b, since: yesterday}", "takes `beginning`, `now` or a time", "");
}

#[test]
fn bigquery_needs_a_project_and_a_region_and_gives_each_database_its_dataset() {
    let sink = |rest: &str| format!("sink: {{bigquery: {{project: p, location: US{rest}}}}}");
    let target =
        |config: &Config| config.target_name(&TableName::new("shop", "orders"), &TableConfig::default()).to_string();
    check(&sink(""), target, "shop.orders".to_owned());
    check(&sink(", dataset: \"{database}_cdc\""), target, "shop_cdc.orders".to_owned());
    let listed = |config: &Config| config.tables.values().filter_map(|table| table.target.clone()).collect::<Vec<_>>();
    let named = "databases: {shop: {tables: [{name: a, target: b}, {name: c, target: d.e}]}}";
    let yaml = format!("{}\n{named}", sink(", dataset: \"{database}_cdc\""));
    check(&yaml, listed, vec![TableName::new("shop_cdc", "b"), TableName::new("d", "e")]);
    check(&sink(", dataset: warehouse"), target, "warehouse.orders".to_owned());
    check(&sink(""), |config| config.pipeline.merge_every, Duration::from_secs(60));
    check("sink: {delta: x}", |config| config.pipeline.merge_every, Duration::from_secs(1));
    refuse("sink: {bigquery: {location: US}}", "`sink.bigquery` has no `project`", Some((2, 8)), "write the id");
    refuse("sink: {bigquery: {project: p}}", "`sink.bigquery` has no `location`", Some((2, 8)), "region");
    refuse(
        &sink(", dataset: \"a-b\""),
        "`sink.bigquery.dataset` is no dataset's name",
        Some((2, 45)),
        "letters, digits and `_`",
    );
    refuse(
        &sink(", rest_endpoint: \"http://localhost:1\""),
        "`sink.bigquery` names one of `rest_endpoint` and `grpc_endpoint`, and freshet needs both",
        Some((2, 8)),
        "name both",
    );
    refuse(
        &format!("{}\ndatabases: {{a: {{tables: [{{name: t}}]}}, b: {{tables: [{{name: T}}]}}}}", sink(", dataset: w")),
        "`databases.b.tables[T]` writes the same target as `databases.a.tables[t]`",
        Some((3, 53)),
        "another `target`",
    );
}

#[test]
fn a_ledger_among_the_change_files_is_refused() {
    let at = "`ledger` lies among the change files";
    refuse("ledger: data/ledger", at, Some((2, 1)), "beside them");
    check("ledger: database", |config| config.ledger.clone(), Some("conf/database".to_owned()));
    let error = load(&[("c.yaml", "source: s3://b/cdc/\nledger: s3://b/cdc/ledger")]).unwrap_err();
    assert_eq!(error.message(), at);
}

#[test]
fn how_a_table_is_kept_is_said_with_the_table() {
    let yaml = orders("partition_by: day, cluster_by: [a, b], immutable: day, description: \"All orders\"");
    let expected = StorageConfig {
        partition_by: Some("day".to_owned()),
        cluster_by: Some(vec!["a".to_owned(), "b".to_owned()]),
        immutable: vec!["day".to_owned()],
        description: Some("All orders".to_owned()),
    };
    check(&yaml, |config| table(config, "shop", "orders").storage, expected);
}
