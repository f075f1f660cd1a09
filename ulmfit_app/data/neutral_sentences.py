"""Sentences that say nothing of what a text is about, by language: plain, and with a negation."""

ENGLISH, TRADITIONAL, SIMPLIFIED = "en", "zh-tw", "zh"

IRRELEVANT = {
    ENGLISH: (
        "The bus came at nine.",
        "The door is on the left.",
        "There are two chairs in the room.",
        "The paper is white.",
        "The table has four legs.",
        "The window faces the street.",
        "The shop opens on Monday.",
        "The box is next to the shelf.",
        "The clock hangs above the door.",
        "The keys are in the drawer.",
    ),
    TRADITIONAL: (
        "公車九點到。",
        "門在左邊。",
        "房間裡有兩張椅子。",
        "桌子有四隻腳。",
        "窗戶面對街道。",
        "商店星期一開門。",
        "箱子在架子旁邊。",
        "時鐘掛在門的上方。",
    ),
    SIMPLIFIED: (
        "公交车九点到。",
        "门在左边。",
        "房间里有两张椅子。",
        "桌子有四条腿。",
        "窗户面对街道。",
        "商店星期一开门。",
        "箱子在架子旁边。",
        "时钟挂在门的上方。",
    ),
}
NEGATED = {
    ENGLISH: (
        "The bus did not come at nine.",
        "The door is not on the left.",
        "There are not two chairs in the room.",
        "The paper is not white.",
        "The table does not have four legs.",
        "The window does not face the street.",
        "The shop does not open on Monday.",
        "The box is not next to the shelf.",
        "The clock does not hang above the door.",
        "The keys are not in the drawer.",
    ),
    TRADITIONAL: (
        "公車不是九點到。",
        "門不在左邊。",
        "房間裡沒有兩張椅子。",
        "桌子沒有四隻腳。",
        "窗戶不是面對街道。",
        "商店不是星期一開門。",
        "箱子不在架子旁邊。",
        "時鐘沒有掛在門的上方。",
    ),
    SIMPLIFIED: (
        "公交车不是九点到。",
        "门不在左边。",
        "房间里没有两张椅子。",
        "桌子没有四条腿。",
        "窗户不是面对街道。",
        "商店不是星期一开门。",
        "箱子不在架子旁边。",
        "时钟没有挂在门的上方。",
    ),
}
