//! Written by `cargo xtask tensorrt-slots` from the headers of TensorRT 10.0.1, 10.3.0, 10.7.0, 10.10.0, 10.13.3, 10.14.1, 10.16.0; not to be edited.

use super::Slots;

pub const SLOTS: Slots = Slots {
    // nvinfer1::IBuilder::~IBuilder() [deleting]
    object_destroy: 1,
    // int32_t nvinfer1::apiv::VBuilder::getNbDLACores() const
    builder_dla_cores: 5,
    // nvinfer1::IBuilderConfig *nvinfer1::apiv::VBuilder::createBuilderConfig()
    builder_create_config: 7,
    // nvinfer1::INetworkDefinition *nvinfer1::apiv::VBuilder::createNetworkV2(NetworkDefinitionCreationFlags)
    builder_create_network: 8,
    // nvinfer1::IOptimizationProfile *nvinfer1::apiv::VBuilder::createOptimizationProfile()
    builder_create_profile: 9,
    // nvinfer1::IHostMemory *nvinfer1::apiv::VBuilder::buildSerializedNetwork(INetworkDefinition &, IBuilderConfig &)
    builder_build: 14,
    // int32_t nvinfer1::apiv::VNetworkDefinition::getNbLayers() const
    network_layers: 12,
    // int32_t nvinfer1::apiv::VNetworkDefinition::getNbInputs() const
    network_inputs: 14,
    // ITensor *nvinfer1::apiv::VNetworkDefinition::getInput(int32_t) const
    network_input: 15,
    // int32_t nvinfer1::apiv::VNetworkDefinition::getNbOutputs() const
    network_outputs: 16,
    // ITensor *nvinfer1::apiv::VNetworkDefinition::getOutput(int32_t) const
    network_output: 17,
    // const char *nvinfer1::apiv::VTensor::getName() const
    tensor_name: 3,
    // Dims nvinfer1::apiv::VTensor::getDimensions() const
    tensor_dimensions: 5,
    // DataType nvinfer1::apiv::VTensor::getType() const
    tensor_type: 7,
    // void nvinfer1::apiv::VBuilderConfig::clearFlag(BuilderFlag)
    config_clear_flag: 10,
    // void nvinfer1::apiv::VBuilderConfig::setFlag(BuilderFlag)
    config_set_flag: 11,
    // void nvinfer1::apiv::VBuilderConfig::setDLACore(int32_t)
    config_set_dla_core: 18,
    // void nvinfer1::apiv::VBuilderConfig::setDefaultDeviceType(DeviceType)
    config_set_device: 20,
    // int32_t nvinfer1::apiv::VBuilderConfig::addOptimizationProfile(const IOptimizationProfile *)
    config_add_profile: 25,
    // void nvinfer1::apiv::VBuilderConfig::setMemoryPoolLimit(MemoryPoolType, std::size_t)
    config_set_pool: 43,
    // bool nvinfer1::apiv::VOptimizationProfile::setDimensions(const char *, OptProfileSelector, const Dims &)
    profile_set_dimensions: 2,
    // bool nvinfer1::apiv::VOptimizationProfile::isValid() const
    profile_is_valid: 9,
    // void *nvinfer1::apiv::VHostMemory::data() const
    memory_data: 2,
    // std::size_t nvinfer1::apiv::VHostMemory::size() const
    memory_size: 3,
    // nvinfer1::ICudaEngine *nvinfer1::apiv::VRuntime::deserializeCudaEngine(const void *, std::size_t)
    runtime_deserialize: 3,
    // void nvinfer1::apiv::VRuntime::setDLACore(int32_t)
    runtime_set_dla_core: 5,
    // int32_t nvinfer1::apiv::VCudaEngine::getNbIOTensors() const
    engine_tensors: 30,
    // const char *nvinfer1::apiv::VCudaEngine::getIOTensorName(int32_t) const
    engine_tensor_name: 31,
    // Dims nvinfer1::apiv::VCudaEngine::getTensorShape(const char *) const
    engine_tensor_shape: 19,
    // DataType nvinfer1::apiv::VCudaEngine::getTensorDataType(const char *) const
    engine_tensor_type: 20,
    // TensorIOMode nvinfer1::apiv::VCudaEngine::getTensorIOMode(const char *) const
    engine_tensor_mode: 23,
    // int32_t nvinfer1::apiv::VCudaEngine::getNbOptimizationProfiles() const
    engine_profiles: 10,
    // IExecutionContext *nvinfer1::apiv::VCudaEngine::createExecutionContext(ExecutionContextAllocationStrategy)
    engine_create_context: 5,
    // bool nvinfer1::apiv::VExecutionContext::setOptimizationProfileAsync(int32_t, cudaStream_t)
    context_set_profile: 17,
    // bool nvinfer1::apiv::VExecutionContext::setInputShape(const char *, const Dims &)
    context_set_shape: 21,
    // Dims nvinfer1::apiv::VExecutionContext::getTensorShape(const char *) const
    context_shape: 22,
    // bool nvinfer1::apiv::VExecutionContext::setTensorAddress(const char *, void *)
    context_set_address: 24,
    // bool nvinfer1::apiv::VExecutionContext::enqueueV3(cudaStream_t)
    context_enqueue: 37,
    // bool nvonnxparser::IParser::parse(const void *, size_t, const char *)
    parser_parse: 0,
    // int nvonnxparser::IParser::getNbErrors() const
    parser_errors: 5,
    // const IParserError *nvonnxparser::IParser::getError(int) const
    parser_error: 6,
    // nvonnxparser::IParser::~IParser() [deleting]
    parser_destroy: 9,
    // void nvonnxparser::IParser::setFlag(OnnxParserFlag)
    parser_set_flag: Some(14),
    // ErrorCode nvonnxparser::IParserError::code() const
    error_code: 0,
    // const char *nvonnxparser::IParserError::desc() const
    error_description: 1,
    // int nvonnxparser::IParserError::node() const
    error_node: 5,
    // BuilderFlag::kFP16
    flag_fp16: None,
    // BuilderFlag::kINT8
    flag_int8: None,
    // BuilderFlag::kGPU_FALLBACK
    flag_gpu_fallback: 3,
    // BuilderFlag::kTF32
    flag_tf32: 6,
};
