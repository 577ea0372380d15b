-- user_actions: what a player did. One row per action_id in the final table.
--
-- How to read a query of freshet: it is run over each micro-batch of change files, and over any span of
-- history, and sees the files' columns plus
--   _cdc_operation  I, U or D (a row of the full load is an I)
--   _cdc_sequence   the order of changes: greater is later, also across files
-- Keep both, unmodified, and every key column. The rows given are changes, deletes among them: do not filter
-- deletes out, they are what removes a row from the final table.

SELECT
    action_id,                                   -- the key, see `key:` in freshet.yaml
    user_id,
    action_type,
    -- The load has this column as text, later files as TIMESTAMP: `schema_override` in freshet.yaml casts both
    -- before this query sees them. `timestamp` is a keyword, hence the quotes.
    "timestamp",
    bit(is_bonus)              AS is_bonus,      -- MySQL BIT(1), whatever form it arrives in, as a boolean
    details,                                     -- JSON, kept as text
    -- Added to the source on 2023-03-15: files from before lack it, there it is NULL. The cast says which type
    -- that NULL has.
    CAST(device AS VARCHAR)    AS device,
    _cdc_operation,
    _cdc_sequence
FROM casino_db1.user_actions
-- Only the latest change of each key. In a run the merge sees to that, whichever file comes first, and the log
-- keeps every change; `freshet query` applies it at once.
QUALIFY row_number() OVER (PARTITION BY action_id ORDER BY _cdc_sequence DESC) = 1
