"""What freshet replaces: a file at a time, gunzip, pandas, the latest row of each key,
to_parquet; of the SQL's casts only the boolean, and no decimal.

`day.py FOLDER` does so with every file of the folder, in as many processes as FRESHET_THREADS says, and prints rows,
seconds, and the peak memory of one process in MiB.
"""

import gzip
import io
import os
import pathlib
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor

import pandas

THREADS = int(os.environ.get("FRESHET_THREADS", "2"))


def carry(path):
    rows = pandas.read_parquet(io.BytesIO(gzip.decompress(path.read_bytes())))
    count = len(rows)
    rows["currency"] = rows["currency"].str.upper()
    rows["is_test"] = rows["is_test"] == 1
    rows = rows.sort_values("updated_at").drop_duplicates("id", keep="last")
    rows.to_parquet(io.BytesIO())
    return count


def peak(_):
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    files = sorted(pathlib.Path(sys.argv[1]).glob("**/*.parquet.gz"))
    with ProcessPoolExecutor(THREADS) as pool:
        list(pool.map(carry, files[:THREADS]))  # starts the processes, and imports
        begun = time.perf_counter()
        rows = sum(pool.map(carry, files))
        seconds = time.perf_counter() - begun
        memory = max(pool.map(peak, range(THREADS)))
    print(rows, seconds, memory)
