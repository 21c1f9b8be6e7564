from rt_scale.api import Run as Run
from rt_scale.api import Store as Store
from rt_scale.api import Sweep as Sweep
from rt_scale.api import load as load
from rt_scale.api import open_store as open_store
from rt_scale.api import run as run
from rt_scale.api import sweep as sweep
from rt_scale.spec.errors import InputError as InputError
from rt_scale.spec.errors import RunError as RunError
from rt_scale.spec.run import RunSpec as RunSpec

__version__: str
