"""ONNX models, on ONNX Runtime's CPU provider."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np

# Official builds report their use to Microsoft, and write a device id to the home directory, as soon as they
# are imported (onnxruntime's Privacy.md); this is the only switch that turns off all of it.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime

from serving_image.manifest import Datatype, Tensor
from serving_image.server.protocol import Array
from serving_image.server.runtimes import InputError, ModelRefusedError

_DATATYPES = {
    "tensor(bool)": Datatype.BOOL,
    "tensor(uint8)": Datatype.UINT8,
    "tensor(uint16)": Datatype.UINT16,
    "tensor(uint32)": Datatype.UINT32,
    "tensor(uint64)": Datatype.UINT64,
    "tensor(int8)": Datatype.INT8,
    "tensor(int16)": Datatype.INT16,
    "tensor(int32)": Datatype.INT32,
    "tensor(int64)": Datatype.INT64,
    "tensor(float16)": Datatype.FP16,
    "tensor(float)": Datatype.FP32,
    "tensor(double)": Datatype.FP64,
    "tensor(string)": Datatype.BYTES,
}
_ONLY_ERRORS = 3
_EXTERNAL_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"


class OnnxRuntime:
    """A session, and the tensors that it declares."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self.session = session
        self.input_tensors = tuple(_tensor(argument) for argument in session.get_inputs())
        self.output_tensors = tuple(_tensor(argument) for argument in session.get_outputs())
        self.outputs = tuple(tensor.name for tensor in self.output_tensors)

    @classmethod
    def open(cls, content: bytes, *, threads: int) -> OnnxRuntime:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _ONLY_ERRORS
        # Waiting threads that spin take the CPU of the container's neighbours, and of its own event loop.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Weights outside the model file would be read, unverified, from the working directory.
        options.add_session_config_entry(_EXTERNAL_WEIGHTS_FOLDER, "/nonexistent")
        return cls(onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"]))

    def predict(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> Mapping[str, Array]:
        try:
            results = self.session.run(list(outputs), dict(inputs))
        except onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument as error:
            raise InputError(str(error)) from error
        return dict(zip(outputs, (np.asarray(result) for result in results), strict=True))


def _tensor(argument: onnxruntime.NodeArg) -> Tensor:
    if argument.type not in _DATATYPES:
        raise ModelRefusedError(
            f"{argument.name!r} is {argument.type}, which the inference protocol cannot carry; "
            "export tensors only (skl2onnx: zipmap=False)"
        )
    # A name or None is a dimension of any size.
    shape = tuple(size if isinstance(size, int) else -1 for size in argument.shape)
    return Tensor(name=argument.name, datatype=_DATATYPES[argument.type], shape=shape)
