"""CIFAR-10 and CIFAR-100."""

from __future__ import annotations

from rt_scale.data.info import PUBLISHED, DataInfo, downloads

_CIFAR100_CLASSES = tuple(
    """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel
    can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur
    dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion
    lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree
    pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea
    seal shark shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table
    tank telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman
    worm
    """.split()  # noqa: SIM905 - a hundred quoted names are harder to check
)

_CIFAR_URL = "https://www.cs.toronto.edu/~kriz/"

CIFAR10 = DataInfo(
    name="cifar10",
    title="CIFAR-10",
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    size=32,
    channels=3,
    train=50_000,
    test=10_000,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    stats_source=PUBLISHED,
    origin="the python or the binary release of Krizhevsky",
    reader="cifar",
    downloads=downloads(_CIFAR_URL, {"cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a"}),
    checksums=(
        ("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"),
        ("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"),
        ("data_batch_1", "c99cafc152244af753f735de768cd75f"),
        ("data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec"),
        ("data_batch_3", "54ebc095f3ab1f0389bbae665268c751"),
        ("data_batch_4", "634d18415352ddfa80567beed471001a"),
        ("data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb"),
        ("test_batch", "40351d587109b95175f43aff81a1287e"),
    ),
)

CIFAR100 = DataInfo(
    name="cifar100",
    title="CIFAR-100",
    classes=_CIFAR100_CLASSES,
    size=32,
    channels=3,
    train=50_000,
    test=10_000,
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
    stats_source=PUBLISHED,
    origin="the python or the binary release of Krizhevsky; fine labels",
    reader="cifar",
    downloads=downloads(_CIFAR_URL, {"cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85"}),
    checksums=(
        ("cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"),
        ("cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8"),
        ("train", "16019d7e3df5f24257cddd939b257f8d"),
        ("test", "f0ef6b0ae62326f3e7ffdfab6717acfc"),
    ),
)
