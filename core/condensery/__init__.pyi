from .contract import Method as Method
from .contract import Registry as Registry
from .contract import hookimpl as hookimpl
from .errors import CondenseryError as CondenseryError
from .errors import NotApplicable as NotApplicable
from .errors import PluginError as PluginError
from .errors import UnknownKey as UnknownKey
from .errors import UsageError as UsageError
from .front import Result as Result
from .front import compress as compress
from .nets import Layer as Layer
from .nets import Transform as Transform
from .nets import Weight as Weight
from .nets import straight_through as straight_through
from .recipe import Recipe as Recipe
from .run import Run as Run
from .run import Stage as Stage
from .storage import load as load
from .tasks import Batch as Batch
from .tasks import Task as Task

__version__: str
