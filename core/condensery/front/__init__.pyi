from .compressing import compress as compress
from .compressing import given_recipe as given_recipe
from .result import Result as Result
from .table import console_table as console_table
from .table import figure as figure
from .table import report_table as report_table
