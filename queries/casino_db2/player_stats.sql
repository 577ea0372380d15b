-- player_stats: a player's figures of one day. The key is composite: (player_id, stat_date).

SELECT
    player_id,
    stat_date,
    nickname,
    games_played,
    wins,
    total_bet,
    net_result,
    -- Computed columns are fine as long as they rest on their own row alone: no aggregates, joins or now().
    CASE WHEN games_played > 0 THEN CAST(wins AS BIGINT) * 100 / games_played END AS win_percent,
    best_multiplier,
    longest_session,
    bit(is_vip)                         AS is_vip,       -- arrives as the integer 0 or 1, later as text
    bit_to_int(badges)                  AS badges,       -- BIT(64)
    CAST(vip_level AS BIGINT)           AS vip_level,    -- added to the source on 2023-03-15; NULL before
    _cdc_operation,
    _cdc_sequence
FROM casino_db2.player_stats
-- PARTITION BY names exactly the key's columns.
QUALIFY row_number() OVER (PARTITION BY player_id, stat_date ORDER BY _cdc_sequence DESC) = 1
