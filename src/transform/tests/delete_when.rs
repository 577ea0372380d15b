//! `delete_when`: a condition over the outputs that turns changes into deletes.

use super::{plan, transform};
use crate::catalog::samples::{Shelf, batch, ints, lines, parquet, session, texts};
use crate::error::{Error, Kind};

/// Operations of four changes under a condition: I of 1 `on`, U of 2 `off`, U of 3 NULL, D of 4 `on`.
async fn operations(condition: &str) -> Result<Vec<String>, Error> {
    let columns = [
        ("Op", texts(["I", "U", "U", "D"])),
        ("id", ints([1, 2, 3, 4])),
        ("State", texts([Some("on"), Some("off"), None, Some("on")])),
    ];
    let file = Shelf::default().open("a.parquet", 1, parquet(&batch(columns), 10)).await;
    let sql = "SELECT id, lower(State) AS State, _cdc_operation, _cdc_sequence FROM orders o";
    let mut transform = transform(Some(sql), Some(&["id"]));
    transform.delete_when = Some(condition.to_owned());
    let session = session(1);
    let planned = transform.plan(&session, &file.schema, &[]).await?;
    let bound = planned.bind(vec![file])?;
    let rows = session.execute_logical_plan(bound).await.map_err(Error::of_rows)?.collect().await;
    let rows = rows.map_err(Error::of_rows)?;
    assert_eq!(rows[0].schema().field(4).name(), "__freshet_file_id");
    Ok(lines(&rows).iter().map(|line| line.split('|').nth(2).unwrap().to_owned()).collect())
}

#[tokio::test]
async fn what_is_true_becomes_a_delete_and_null_does_not() {
    let check = async |condition: &str, expected: [&str; 4]| {
        assert_eq!(operations(condition).await.unwrap(), expected, "{condition}");
    };
    check("State = 'off'", ["I", "D", "U", "D"]).await;
    check("STATE = 'on'", ["D", "U", "U", "D"]).await;
    check("State <> 'on'", ["I", "D", "U", "D"]).await;
    check("State IS NULL OR id = 1", ["D", "U", "D", "D"]).await;
    check("NULL", ["I", "U", "U", "D"]).await;
    check("_cdc_operation = 'U'", ["I", "D", "D", "D"]).await;
    check("true", ["D", "D", "D", "D"]).await;
}

#[tokio::test]
async fn what_is_no_row_by_row_condition_is_refused_by_its_name() {
    for (condition, message, hint) in [
        ("created < now()", "there is no column `created`", "the table has"),
        ("id < 5 AND now() > '2023-01-01'", "`now` gives another value", "by itself"),
        ("random() < 0.5", "`random` gives another value", "by itself"),
        ("count(*) > 1", "count", ""),
        ("row_number() OVER () = 1", "window function", "by itself"),
        ("Stat = 'on'", "there is no column `Stat`", "did you mean `State`"),
        ("State = ", "cannot be read", ""),
    ] {
        let error = operations(condition).await.unwrap_err();
        assert!(error.message().contains(message), "{condition}: {}", error.report());
        assert!(error.hint_text().unwrap_or_default().contains(hint), "{condition}: {}", error.report());
        assert_eq!((error.kind(), error.place().query.as_deref()), (Kind::User, Some("delete_when")), "{condition}");
    }
}

#[tokio::test]
async fn a_condition_that_is_neither_true_nor_false_is_refused_when_it_is_planned() {
    let mut transform = transform(None, Some(&["id"]));
    transform.delete_when = Some("userName".into());
    assert!(plan(&transform).await.is_err());
}
