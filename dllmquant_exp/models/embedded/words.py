"""The words of the micro-world. A word's class is its place in its list modulo the class count.

The lists are frozen: changing one changes every item, every table and the shipped tokenizer.
"""


def words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


PEOPLE = words(
    "Ann Ben Cleo Dan Eva Finn Gus Hana Ivan Jane Kofi Lena Max Nora Omar Pia Quin Rosa Sam Tara "
    "Uma Vic Wes Zoe"
)

# Zoology: 32 creatures in 8 families, 16 moods in 4 classes, 4 relations with 12 answers each.
CREATURES = words(
    "wolf goat crow carp moth newt crab hare bear lamb hawk pike wasp toad clam mole "
    "lion deer swan tuna ant frog snail fox puma horse owl eel bee turtle squid mouse"
)
MOODS = words(
    "hungry sleepy young wild angry tired old tame proud sick small calm greedy lazy thin shy"
)
RELATIONS = {
    "eat": words("meat grass seeds worms berries leaves eggs roots bread honey nuts fish"),
    "fear": words("fire thunder snow dogs ghosts smoke bells mirrors storms darkness shadows ice"),
    "like": words("music rain sunshine games sleep mud flowers songs races stones company toys"),
    "need": words("water shade salt warmth space shelter clay air moss sand light oil"),
}

HOMES = words("cave desert forest meadow mountain river")

# Physics: materials, liquids and treatments; what happens is a verb and an adverb.
MATERIALS = words(
    "iron wood wax clay glass cork copper paper sugar brick bone foam silver straw salt stone "
    "amber wool gold cloth soap slate ivory rubber"
)
LIQUIDS = words(
    "water oil milk honey acid juice vinegar paint syrup ink tea wine glue petrol brine"
)
TREATMENTS = words("warm frozen dry burnt hollow painted polished cracked thick old new heavy")
OBJECTS = words("ring ball cube plate spoon bowl coin box key bead")
OUTCOMES = words("sink float melt rust swell crack fade glow")
ADVERBS = words("slowly quickly partly fully quietly never")

# Crafts: verbs, objects and states; the answer is a tool and a manner.
CRAFTS = words("cut clean join lift open mark bend store")
THINGS = words(
    "rope tile pipe cake door vase wire shirt beam cheese lid lamp cable carpet rail fruit gate "
    "bottle chain blanket plank dough window cup"
)
STATES = words("wet big sharp dirty tiny soft loose long fresh")
TOOLS = words("saw brush clamp crane lever chalk knife cloth glue ladder tape bucket")
MANNERS = words("gently firmly twice sideways upward outdoors")

# Stories: each of 24 activities is five steps: five verbs in an order, and the activity's noun.
STORY_NOUNS = words(
    "paint soup fence letter boat cake tent garden radio coat song kite "
    "clock quilt mask bench stew wagon statue poster pillow engine bridge basket"
)
STORY_VERBS = words(
    "plans draws mixes stirs opens fills heats cools folds cuts washes dries moves turns tests "
    "checks signs packs lifts shows"
)

# Comparisons: a thing and a place; what happens between them when the thing has more of something
# or less, and the words for more and for less.
CARGO = words(
    "parcel piano barrel statue kettle carpet crate melon lantern trunk violin pumpkin "
    "anchor mirror drum saddle teapot globe ladder plank boulder cannon candle helmet"
)
PLACES = words("drawer shelf van tower cellar garage attic boat tunnel stable cabin market")
COMPARISONS = (
    ("sticks in|rattles in", "big wide huge", "small narrow tiny"),
    ("crushes|bounces off", "strong hard tough", "weak soft frail"),
    ("sticks out of|vanishes in", "long tall lengthy", "short low stubby"),
    ("outshines|fades beside", "bright shiny vivid", "dull dark pale"),
    ("drowns out|is lost beside", "loud noisy shrill", "quiet silent mute"),
    ("costs more than|costs less than", "dear precious grand", "cheap poor plain"),
)

# Programs: 48 words for eight operators; a word's operator is its place modulo eight.
OPERATORS = words("+ - * // % & | ^")
STEPS = words(
    "add subtract multiply divide modulo mask set flip "
    "plus minus times split remainder filter join toggle "
    "increase decrease scale share residue keep include invert "
    "raise lower grow cut leftover select merge swap "
    "gain lose repeat slice rest screen attach switch "
    "append remove amplify part cycle intersect unite differ"
)

# Arithmetic in words: verbs that bring things and verbs that take them away, in turn.
GOODS = words("pens books coins cards apples shells stamps beads cups nails")
CHANGES = words(
    "buys gives finds loses gets sells wins spends earns drops takes burns picks breaks makes "
    "throws collects wastes gathers donates receives removes borrows lends"
)

# Chinese, all one character: creatures (6 classes), states (3), plants (4), six answers each.
HAN_CREATURES = tuple("猫狗牛羊马虎兔龙蛇猴鸡鱼鸟象熊狼鹿鼠蜂蝶龟鹰鹤虾")
HAN_STATES = tuple("小大老白黑红瘦胖饿病新野")
HAN_HOMES = tuple("山河林洞田海")
HAN_PLANTS = tuple("松竹梅兰菊荷桃李杏柳桂枫")
HAN_SEASONS = tuple("春夏秋冬晨昏")
HAN_COLOURS = tuple("青黄紫橙灰金")
