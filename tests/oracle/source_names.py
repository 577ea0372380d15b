"""Names as source databases have them: plain, keywords, mixed case, Korean, with spaces, quotes, dots, percents."""

from random import Random

STYLES = {
    "plain": ["users", "game_log", "t1", "daily_totals", "a", "bet_items", "audit", "wallet", "score", "level_2"],
    "keyword": ["order", "select", "group", "table", "from", "user", "timestamp", "values", "limit", "key"],
    "mixed_case": ["userId", "GameLog", "sessionID", "OrderTotal", "X", "isActive", "DailyRank"],
    "korean": ["회원", "게임_기록", "닉네임", "베팅금액", "출석", "상태"],
    "spaces": ["user id", "game log", "total  bet", "한국 이름"],
    "quotes": ["we\"ird", "it's", "back`tick", "\"both'"],
    "dots": ["a.b", "v1.2", "schema.table"],
    "percent": ["win%", "100%25", "a+b", "x&y"],
}
# Names that would be taken for what freshet or AWS DMS adds, or for part of a date.
TAKEN = {"op", "ar_h_change_seq"}


class Names:
    """Draws names of the allowed styles; no two of one `taken` set are equal but for case."""

    def __init__(self, rng: Random, without: set[str]):
        self.rng = rng
        self.styles = [style for style in STYLES if style not in without]

    def draw(self, taken: set[str]) -> str:
        style = self.rng.choice(self.styles)
        name = self.rng.choice(STYLES[style])
        while name.casefold() in taken or name.casefold() in TAKEN:
            name = f"{self.rng.choice(STYLES[style])}{self.rng.choice(['_', 'x', 'y'])}{self.rng.randrange(100)}"
        taken.add(name.casefold())
        return name
