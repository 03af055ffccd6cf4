"""Caffe's protobuf messages, built at run time from a table, for binary and prototxt files.

Names, field numbers, defaults and enum values are those of BVLC Caffe's caffe.proto. Parameters of unsupported layers
can be parsed too, so that they are reported by name instead of as syntax errors. That needs only their names and types:
OtherParameter has the fields of all of them, with numbers that no binary file has.
"""

import functools
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

_PACKAGE = "caffe"
_FIELD = descriptor_pb2.FieldDescriptorProto

_ENUMS = {
    "Phase": "TRAIN 0, TEST 1",
    "Engine": "DEFAULT 0, CAFFE 1, CUDNN 2",
    "VarianceNorm": "FAN_IN 0, FAN_OUT 1, AVERAGE 2",
    "SnapshotFormat": "HDF5 0, BINARYPROTO 1",
    "SolverMode": "CPU 0, GPU 1",
    "SolverType": "SGD 0, NESTEROV 1, ADAGRAD 2, RMSPROP 3, ADADELTA 4, ADAM 5",
    "DimCheckMode": "STRICT 0, PERMISSIVE 1",
    "NormalizationMode": "FULL 0, VALID 1, BATCH_SIZE 2, NONE 3",
    "DB": "LEVELDB 0, LMDB 1",
    "Norm": "L1 1, L2 2",
    "NormRegion": "ACROSS_CHANNELS 0, WITHIN_CHANNEL 1",
    "PoolMethod": "MAX 0, AVE 1, STOCHASTIC 2",
    "RoundMode": "CEIL 0, FLOOR 1",
    "EltwiseOp": "PROD 0, SUM 1, MAX 2",
    "ReductionOp": "SUM 1, ASUM 2, SUMSQ 3, MEAN 4",
    "V1LayerType": """
        NONE 0, ACCURACY 1, BNLL 2, CONCAT 3, CONVOLUTION 4, DATA 5, DROPOUT 6, EUCLIDEAN_LOSS 7, FLATTEN 8,
        HDF5_DATA 9, HDF5_OUTPUT 10, IM2COL 11, IMAGE_DATA 12, INFOGAIN_LOSS 13, INNER_PRODUCT 14, LRN 15,
        MULTINOMIAL_LOGISTIC_LOSS 16, POOLING 17, RELU 18, SIGMOID 19, SOFTMAX 20, SOFTMAX_LOSS 21, SPLIT 22, TANH 23,
        WINDOW_DATA 24, ELTWISE 25, POWER 26, SIGMOID_CROSS_ENTROPY_LOSS 27, HINGE_LOSS 28, MEMORY_DATA 29, ARGMAX 30,
        THRESHOLD 31, DUMMY_DATA 32, SLICE 33, MVN 34, ABSVAL 35, SILENCE 36, CONTRASTIVE_LOSS 37, EXP 38,
        DECONVOLUTION 39
    """,
}

_OTHER_LAYERS = """
    argmax bias clip contrastive_loss crop dummy_data elu embed exp hdf5_data hdf5_output hinge_loss infogain_loss log
    memory_data mvn parameter power python recurrent reduction slice spp swish threshold tile window_data
"""
_PARAMETERS = """
    transform_param 100 TransformationParameter, loss_param 101 LossParameter, accuracy_param 102 AccuracyParameter,
    convolution_param 106 ConvolutionParameter, dropout_param 108 DropoutParameter,
    image_data_param 115 ImageDataParameter, inner_product_param 117 InnerProductParameter,
    input_param 143 InputParameter, lrn_param 118 LRNParameter, pooling_param 121 PoolingParameter,
    relu_param 123 ReLUParameter, softmax_param 125 SoftmaxParameter, batch_norm_param 139 BatchNormParameter,
    concat_param 104 ConcatParameter, data_param 107 DataParameter, eltwise_param 110 EltwiseParameter,
    flatten_param 135 FlattenParameter, prelu_param 131 PReLUParameter, reshape_param 133 ReshapeParameter,
    scale_param 142 ScaleParameter, sigmoid_param 124 SigmoidParameter, tanh_param 127 TanHParameter
""" + "".join(f", {layer}_param {10000 + n} OtherParameter" for n, layer in enumerate(_OTHER_LAYERS.split()))

# Message -> its fields, each "name number [repeated|packed] type[=default]".
_MESSAGES = {
    "BlobShape": "dim 1 packed int64",
    "BlobProto": """
        shape 7 BlobShape, data 5 packed float, diff 6 packed float, double_data 8 packed double,
        double_diff 9 packed double, num 1 int32=0, channels 2 int32=0, height 3 int32=0, width 4 int32=0
    """,
    # Not in caffe.proto: a BlobProto's data as bytes; the encoding is the same.
    "PackedFloats": "data 5 bytes",
    "NetParameter": """
        name 1 string, layers 2 repeated V1LayerParameter, input 3 repeated string, input_dim 4 repeated int32,
        force_backward 5 bool=false, state 6 NetState, debug_info 7 bool=false, input_shape 8 repeated BlobShape,
        layer 100 repeated LayerParameter
    """,
    "NetState": "phase 1 Phase=TEST, level 2 int32=0, stage 3 repeated string",
    "NetStateRule": """
        phase 1 Phase, min_level 2 int32, max_level 3 int32, stage 4 repeated string, not_stage 5 repeated string
    """,
    "SolverParameter": """
        net 24 string, net_param 25 NetParameter, train_net 1 string, test_net 2 repeated string,
        train_net_param 21 NetParameter, test_net_param 22 repeated NetParameter, train_state 26 NetState,
        test_state 27 repeated NetState, test_iter 3 repeated int32, test_interval 4 int32=0,
        test_compute_loss 19 bool=false, test_initialization 32 bool=true, base_lr 5 float, display 6 int32,
        average_loss 33 int32=1, max_iter 7 int32, iter_size 36 int32=1, lr_policy 8 string, gamma 9 float,
        power 10 float, momentum 11 float, weight_decay 12 float, regularization_type 29 string=L2, stepsize 13 int32,
        stepvalue 34 repeated int32, clip_gradients 35 float=-1, snapshot 14 int32=0, snapshot_prefix 15 string,
        snapshot_diff 16 bool=false, snapshot_format 37 SnapshotFormat=BINARYPROTO, solver_mode 17 SolverMode=GPU,
        device_id 18 int32=0, random_seed 20 int64=-1, type 40 string=SGD, delta 31 float=1e-8,
        momentum2 39 float=0.999, rms_decay 38 float=0.99, debug_info 23 bool=false,
        snapshot_after_train 28 bool=true, solver_type 30 SolverType=SGD, layer_wise_reduce 41 bool=true,
        weights 42 repeated string
    """,
    "SolverState": "iter 1 int32, learned_net 2 string, history 3 repeated BlobProto, current_step 4 int32=0",
    "ParamSpec": "name 1 string, share_mode 2 DimCheckMode, lr_mult 3 float=1, decay_mult 4 float=1",
    "LayerParameter": f"""
        name 1 string, type 2 string, bottom 3 repeated string, top 4 repeated string, phase 10 Phase,
        loss_weight 5 repeated float, param 6 repeated ParamSpec, blobs 7 repeated BlobProto,
        propagate_down 11 repeated bool, include 8 repeated NetStateRule, exclude 9 repeated NetStateRule, {_PARAMETERS}
    """,
    # The format of 2013.
    "V0LayerParameter": """
        name 1 string, type 2 string, num_output 3 uint32, biasterm 4 bool, weight_filler 5 FillerParameter,
        bias_filler 6 FillerParameter, pad 7 uint32, kernelsize 8 uint32, group 9 uint32, stride 10 uint32,
        pool 11 PoolMethod, dropout_ratio 12 float, local_size 13 uint32, alpha 14 float, beta 15 float,
        source 16 string, scale 17 float, meanfile 18 string, batchsize 19 uint32, cropsize 20 uint32, mirror 21 bool,
        k 22 float, blobs 50 repeated BlobProto, blobs_lr 51 repeated float, weight_decay 52 repeated float,
        rand_skip 53 uint32, det_fg_threshold 54 float, det_bg_threshold 55 float, det_fg_fraction 56 float,
        det_context_pad 58 uint32, det_crop_mode 59 string, new_num 60 int32, new_channels 61 int32,
        new_height 62 int32, new_width 63 int32, shuffle_images 64 bool, concat_dim 65 uint32
    """,
    # The parameters have other numbers in caffe.proto, so those of a binary file are skipped.
    "V1LayerParameter": f"""
        layer 1 V0LayerParameter, bottom 2 repeated string, top 3 repeated string, name 4 string,
        include 32 repeated NetStateRule, exclude 33 repeated NetStateRule, type 5 V1LayerType,
        blobs 6 repeated BlobProto, param 1001 repeated string,
        blob_share_mode 1002 repeated DimCheckMode, blobs_lr 7 repeated float, weight_decay 8 repeated float,
        loss_weight 35 repeated float, {_PARAMETERS}
    """,
    "FillerParameter": """
        type 1 string=constant, value 2 float=0, min 3 float=0, max 4 float=1, mean 5 float=0, std 6 float=1,
        sparse 7 int32=-1, variance_norm 8 VarianceNorm=FAN_IN
    """,
    "TransformationParameter": """
        scale 1 float=1, mirror 2 bool=false, crop_size 3 uint32=0, mean_file 4 string, mean_value 5 repeated float,
        force_color 6 bool=false, force_gray 7 bool=false
    """,
    "LossParameter": "ignore_label 1 int32, normalization 3 NormalizationMode=VALID, normalize 2 bool",
    "AccuracyParameter": "top_k 1 uint32=1, axis 2 int32=1, ignore_label 3 int32",
    "BatchNormParameter": "use_global_stats 1 bool, moving_average_fraction 2 float=0.999, eps 3 float=1e-5",
    "ConcatParameter": "axis 2 int32=1, concat_dim 1 uint32=1",
    "ConvolutionParameter": """
        num_output 1 uint32, bias_term 2 bool=true, pad 3 repeated uint32, kernel_size 4 repeated uint32,
        stride 6 repeated uint32, dilation 18 repeated uint32, pad_h 9 uint32=0, pad_w 10 uint32=0, kernel_h 11 uint32,
        kernel_w 12 uint32, stride_h 13 uint32, stride_w 14 uint32, group 5 uint32=1, weight_filler 7 FillerParameter,
        bias_filler 8 FillerParameter, engine 15 Engine=DEFAULT, axis 16 int32=1, force_nd_im2col 17 bool=false
    """,
    "DataParameter": """
        source 1 string, batch_size 4 uint32, rand_skip 7 uint32=0, backend 8 DB=LEVELDB, scale 2 float=1,
        mean_file 3 string, crop_size 5 uint32=0, mirror 6 bool=false, force_encoded_color 9 bool=false,
        prefetch 10 uint32=4
    """,
    "Datum": """
        channels 1 int32, height 2 int32, width 3 int32, data 4 bytes, label 5 int32, float_data 6 repeated float,
        encoded 7 bool=false
    """,
    "DropoutParameter": "dropout_ratio 1 float=0.5",
    "EltwiseParameter": "operation 1 EltwiseOp=SUM, coeff 2 repeated float, stable_prod_grad 3 bool=true",
    "FlattenParameter": "axis 1 int32=1, end_axis 2 int32=-1",
    "ImageDataParameter": """
        source 1 string, batch_size 4 uint32=1, rand_skip 7 uint32=0, shuffle 8 bool=false, new_height 9 uint32=0,
        new_width 10 uint32=0, is_color 11 bool=true, scale 2 float=1, mean_file 3 string, crop_size 5 uint32=0,
        mirror 6 bool=false, root_folder 12 string=
    """,
    "InnerProductParameter": """
        num_output 1 uint32, bias_term 2 bool=true, weight_filler 3 FillerParameter, bias_filler 4 FillerParameter,
        axis 5 int32=1, transpose 6 bool=false
    """,
    "InputParameter": "shape 1 repeated BlobShape",
    "LRNParameter": """
        local_size 1 uint32=5, alpha 2 float=1, beta 3 float=0.75, norm_region 4 NormRegion=ACROSS_CHANNELS,
        k 5 float=1, engine 6 Engine=DEFAULT
    """,
    "PReLUParameter": "filler 1 FillerParameter, channel_shared 2 bool=false",
    "ReshapeParameter": "shape 1 BlobShape, axis 2 int32=0, num_axes 3 int32=-1",
    "ScaleParameter": """
        axis 1 int32=1, num_axes 2 int32=1, filler 3 FillerParameter, bias_term 4 bool=false,
        bias_filler 5 FillerParameter
    """,
    "SigmoidParameter": "engine 1 Engine=DEFAULT",
    "TanHParameter": "engine 1 Engine=DEFAULT",
    "OtherParameter": """
        across_channels 1 bool, alpha 2 float, axis 3 int32, backend 4 DB, base 5 float, batch_size 6 uint32,
        beta 7 float, bg_threshold 8 float, bias_filler 9 FillerParameter, bias_term 10 bool, cache_images 11 bool,
        channel_shared 12 bool, channels 13 repeated uint32, coeff 14 repeated float, concat_dim 15 uint32,
        context_pad 16 uint32, crop_mode 17 string, crop_size 18 uint32, data_filler 19 repeated FillerParameter,
        debug_info 20 bool, end_axis 21 int32, engine 22 Engine, eps 23 float, expose_hidden 24 bool,
        fg_fraction 25 float, fg_threshold 26 float, file_name 27 string, filler 28 FillerParameter,
        force_encoded_color 29 bool, height 30 repeated uint32, input_dim 31 uint32, layer 32 string,
        legacy_version 33 bool, margin 34 float, max 35 float, mean_file 36 string, min 37 float, mirror 38 bool,
        module 39 string, moving_average_fraction 40 float, norm 41 Norm, normalize_variance 42 bool,
        num 43 repeated uint32, num_axes 44 int32, num_output 45 uint32, offset 46 repeated uint32,
        operation 47 ReductionOp, out_max_val 48 bool, param_str 49 string, pool 50 PoolMethod, power 51 float,
        prefetch 52 uint32, pyramid_height 53 uint32, rand_skip 54 uint32, root_folder 55 string, scale 56 float,
        shape 57 repeated BlobShape, share_in_parallel 58 bool, shift 59 float, shuffle 60 bool, slice_dim 61 uint32,
        slice_point 62 repeated uint32, source 63 string, stable_prod_grad 64 bool, threshold 65 float, tiles 66 int32,
        top_k 67 uint32, use_global_stats 68 bool, weight_filler 69 FillerParameter, width 70 repeated uint32
    """,
    "PoolingParameter": """
        pool 1 PoolMethod=MAX, pad 4 uint32=0, pad_h 9 uint32=0, pad_w 10 uint32=0, kernel_size 2 uint32,
        kernel_h 5 uint32, kernel_w 6 uint32, stride 3 uint32=1, stride_h 7 uint32, stride_w 8 uint32,
        engine 11 Engine=DEFAULT, global_pooling 12 bool=false, round_mode 13 RoundMode=CEIL
    """,
    "ReLUParameter": "negative_slope 1 float=0, engine 2 Engine=DEFAULT",
    "SoftmaxParameter": "engine 1 Engine=DEFAULT, axis 2 int32=1",
}


def message_class(name: str) -> Any:  # noqa: ANN401 -- the classes are made at run time
    """Return the class of a message, for example NetParameter. It is proto2: HasField shows whether a field was set."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"{_PACKAGE}.{name}"))


def enum_name(message: Message, field: str) -> str:
    """Return the name of an enum field's value, for example "TEST" for the phase of a NetState."""
    enum = message.DESCRIPTOR.fields_by_name[field].enum_type
    assert enum is not None
    return enum.values_by_number[getattr(message, field)].name


@functools.cache
def _pool() -> descriptor_pool.DescriptorPool:
    file = descriptor_pb2.FileDescriptorProto(name="caffe_tables.proto", package=_PACKAGE, syntax="proto2")
    for name, values in _ENUMS.items():
        # Each enum is in a separate message: value names must be unique within a scope, and MAX is in two enums.
        enum = file.message_type.add(name=name).enum_type.add(name="Value")
        for value in values.split(","):
            value_name, number = value.split()
            enum.value.add(name=value_name, number=int(number))
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field in fields.split(","):
            _add_field(message, field)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool


def _add_field(message: descriptor_pb2.DescriptorProto, text: str) -> None:
    declared, has_default, default = text.partition("=")
    name, number, *repeated, kind = declared.split()
    field = message.field.add(name=name, number=int(number), label=_FIELD.LABEL_OPTIONAL)
    if repeated:
        field.label = _FIELD.LABEL_REPEATED
        field.options.packed = repeated == ["packed"]
    if has_default:
        field.default_value = default.strip()
    if kind in _ENUMS:
        field.type, field.type_name = _FIELD.TYPE_ENUM, f".{_PACKAGE}.{kind}.Value"
    elif kind in _MESSAGES:
        field.type, field.type_name = _FIELD.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
    else:
        field.type = _FIELD.Type.Value(f"TYPE_{kind.upper()}")
