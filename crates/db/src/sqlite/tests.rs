use super::readers::Select;
use super::*;

/// No query reads a whole table or sorts one: each walks its index in order.
#[test]
fn every_query_walks_its_index() {
    let directory = tempfile::tempdir().expect("a directory");
    let connection = file::create(&directory.path().join("store.db"), &schema::ALL).expect("a new store");
    for table in schema::ALL {
        for index in table.indexes {
            for descending in [false, true] {
                let bound = index.range.map(|_| Value::from("2026"));
                let query = Query {
                    from: bound.clone(),
                    until: bound,
                    descending,
                    limit: Some(1),
                    ..Query::of(index.name, "x")
                };
                let select = Select::of(table, &query, 0).expect("an index");
                let plan: Vec<String> = connection
                    .prepare(&format!("EXPLAIN QUERY PLAN {}", select.sql))
                    .and_then(|mut plan| plan.query_map(select.parameters(), |row| row.get(3))?.collect())
                    .unwrap_or_else(|error| panic!("{}: {error}", select.sql));
                let expected = format!("SEARCH {} USING INDEX {}.{} (", table.name, table.name, index.name);
                assert!(plan.len() == 1 && plan[0].starts_with(&expected), "{plan:?}");
            }
        }
    }
}
