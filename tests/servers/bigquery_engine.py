"""The SQL engine behind the tests' own BigQuery: DuckDB in memory, asked and answering in lines of JSON.

A request is one of
  {"op": "run", "statements": [SQL, ...]}           all of them or none
  {"op": "insert", "table": T, "columns": [...], "path": P}  the rows of the Arrow file P, all or none
  {"op": "query", "sql": SQL, "path": P}            one statement; its result goes to the Arrow file P
and is answered by {"rows": N} or {"error": TEXT}. Ends with its standard input.
"""

import json
import sys

import duckdb
import pyarrow as pa
import pyarrow.ipc


def quoted(name):
    return '"' + name.replace('"', '""') + '"'


def run(connection, request):
    for statement in request["statements"]:
        connection.execute(statement)
    return 0


def insert(connection, request):
    with pa.ipc.open_file(request["path"]) as file:
        rows = file.read_all()
    columns = ", ".join(quoted(name) for name in request["columns"])
    connection.register("rows_to_insert", rows)
    try:
        connection.execute(f"INSERT INTO {quoted(request['table'])} ({columns}) SELECT {columns} FROM rows_to_insert")
    finally:
        connection.unregister("rows_to_insert")
    return rows.num_rows


def query(connection, request):
    result = connection.execute(request["sql"]).to_arrow_table()
    with pa.ipc.new_file(request["path"], result.schema) as file:
        file.write_table(result)
    return result.num_rows


OPERATIONS = {"run": run, "insert": insert, "query": query}


def answer(connection, request):
    connection.execute("BEGIN")
    try:
        rows = OPERATIONS[request["op"]](connection, request)
        connection.execute("COMMIT")
        return {"rows": rows}
    except (duckdb.Error, pa.ArrowException) as error:
        connection.execute("ROLLBACK")
        return {"error": str(error)}


def main():
    connection = duckdb.connect(config={"threads": 2, "memory_limit": "1GB"})
    connection.execute("SET TimeZone = 'UTC'")
    for line in sys.stdin:
        print(json.dumps(answer(connection, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
