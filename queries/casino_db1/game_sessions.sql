-- game_sessions: one sitting of a player at a game. One row per sessionId in the final table.

SELECT
    sessionId,
    user_id,
    -- Names are found without regard to case, and the output keeps the source's spelling: this column is
    -- `gameCode` in the final table, however it is typed here.
    gamecode,
    nickname,
    started_at,
    ended_at,                                            -- NULL while the session lasts
    play_time,                                           -- MySQL TIME may exceed 24 hours, so it stays text
    CAST(rounds AS BIGINT)              AS rounds,       -- SMALLINT UNSIGNED
    CAST(bet_total AS DECIMAL(15, 2))   AS bet_total,
    bit(isMobile)                       AS "isMobile",   -- arrives as the text b'0' or b'1'
    bit_to_int(feature_flags)           AS feature_flags, -- BIT(64): 8 bytes, as the integer they spell
    _cdc_operation,
    _cdc_sequence
FROM casino_db1.game_sessions
QUALIFY row_number() OVER (PARTITION BY sessionId ORDER BY _cdc_sequence DESC) = 1
