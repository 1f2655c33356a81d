"""Reads the live Parquet files by DuckDB and counts. Arguments: state directory, file with a JSON list of paths, SQL
over the table `rounds` (and `gaps`, if there are such files). Prints the rows as JSON."""

import json
import sys

import duckdb

_, _, listing, sql = sys.argv
files = json.load(open(listing))
connection = duckdb.connect()
for name in ("rounds", "gaps"):
    paths = [f["path"] for f in files if (f["table"] == "gap") == (name == "gaps")]
    if paths:
        connection.execute(f"create view {name} as select * from read_parquet({paths!r}, union_by_name = true)")
print(json.dumps(connection.execute(sql).fetchall(), default=str))
