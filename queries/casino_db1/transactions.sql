-- transactions: money that moved. One row per transaction_id in the final table.

SELECT
    transaction_id,
    user_id,
    kind,                                                -- ENUM, as text
    amount,                                              -- DECIMAL(15,2): exact, never a float
    balance_after,
    currency,
    -- BIT(1) that arrives as the single character \x00 or \x01, and from 2023-03-15 23:59 on as a boolean: one
    -- function for both.
    bit(is_settled)                     AS is_settled,
    -- An empty memo says nothing.
    nullif(memo, '')                    AS memo,
    requested_at,                                        -- DATETIME: wall time without a zone
    settled_at,                                          -- TIMESTAMP: UTC
    _cdc_operation,
    _cdc_sequence
FROM casino_db1.transactions
QUALIFY row_number() OVER (PARTITION BY transaction_id ORDER BY _cdc_sequence DESC) = 1
