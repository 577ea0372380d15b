SELECT id, user_id, session_id, game_code, action_type, CAST(bet_amount AS DECIMAL(20, 4)) AS bet_amount,
    CAST(win_amount AS DECIMAL(20, 4)) AS win_amount, balance_after, upper(currency) AS currency, ip, round_id, memo,
    is_bonus, device, level, created_at, updated_at, bit(is_test) AS is_test, transact_id,
    _cdc_operation, _cdc_timestamp, _cdc_sequence
FROM user_actions
