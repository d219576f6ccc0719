//! Stages, arguments and platform to a DAG of steps.
