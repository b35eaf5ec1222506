//! Written by `cargo xtask tensorrt-slots` from the headers of TensorRT 8.5.3, 8.6.1; not to be edited.

use super::Slots;

pub const SLOTS: Slots = Slots {
    // nvinfer1::IBuilder::~IBuilder() [deleting]
    object_destroy: 1,
    // int32_t nvinfer1::apiv::VBuilder::getNbDLACores() const
    builder_dla_cores: 7,
    // nvinfer1::IBuilderConfig *nvinfer1::apiv::VBuilder::createBuilderConfig()
    builder_create_config: 9,
    // nvinfer1::INetworkDefinition *nvinfer1::apiv::VBuilder::createNetworkV2(NetworkDefinitionCreationFlags)
    builder_create_network: 11,
    // nvinfer1::IOptimizationProfile *nvinfer1::apiv::VBuilder::createOptimizationProfile()
    builder_create_profile: 12,
    // nvinfer1::IHostMemory *nvinfer1::apiv::VBuilder::buildSerializedNetwork(INetworkDefinition &, IBuilderConfig &)
    builder_build: 17,
    // int32_t nvinfer1::apiv::VNetworkDefinition::getNbLayers() const
    network_layers: 17,
    // int32_t nvinfer1::apiv::VNetworkDefinition::getNbInputs() const
    network_inputs: 19,
    // ITensor *nvinfer1::apiv::VNetworkDefinition::getInput(int32_t) const
    network_input: 20,
    // int32_t nvinfer1::apiv::VNetworkDefinition::getNbOutputs() const
    network_outputs: 21,
    // ITensor *nvinfer1::apiv::VNetworkDefinition::getOutput(int32_t) const
    network_output: 22,
    // const char *nvinfer1::apiv::VTensor::getName() const
    tensor_name: 3,
    // Dims nvinfer1::apiv::VTensor::getDimensions() const
    tensor_dimensions: 5,
    // DataType nvinfer1::apiv::VTensor::getType() const
    tensor_type: 7,
    // void nvinfer1::apiv::VBuilderConfig::clearFlag(BuilderFlag)
    config_clear_flag: 14,
    // void nvinfer1::apiv::VBuilderConfig::setFlag(BuilderFlag)
    config_set_flag: 15,
    // void nvinfer1::apiv::VBuilderConfig::setDLACore(int32_t)
    config_set_dla_core: 22,
    // void nvinfer1::apiv::VBuilderConfig::setDefaultDeviceType(DeviceType)
    config_set_device: 24,
    // int32_t nvinfer1::apiv::VBuilderConfig::addOptimizationProfile(const IOptimizationProfile *)
    config_add_profile: 29,
    // void nvinfer1::apiv::VBuilderConfig::setMemoryPoolLimit(MemoryPoolType, std::size_t)
    config_set_pool: 47,
    // bool nvinfer1::apiv::VOptimizationProfile::setDimensions(const char *, OptProfileSelector, Dims)
    profile_set_dimensions: 2,
    // bool nvinfer1::apiv::VOptimizationProfile::isValid() const
    profile_is_valid: 9,
    // void *nvinfer1::apiv::VHostMemory::data() const
    memory_data: 2,
    // std::size_t nvinfer1::apiv::VHostMemory::size() const
    memory_size: 3,
    // nvinfer1::ICudaEngine *nvinfer1::apiv::VRuntime::deserializeCudaEngine(const void *, std::size_t, IPluginFactory *)
    runtime_deserialize: 2,
    // void nvinfer1::apiv::VRuntime::setDLACore(int32_t)
    runtime_set_dla_core: 3,
    // int32_t nvinfer1::apiv::VCudaEngine::getNbIOTensors() const
    engine_tensors: 45,
    // const char *nvinfer1::apiv::VCudaEngine::getIOTensorName(int32_t) const
    engine_tensor_name: 46,
    // Dims nvinfer1::apiv::VCudaEngine::getTensorShape(const char *) const
    engine_tensor_shape: 34,
    // DataType nvinfer1::apiv::VCudaEngine::getTensorDataType(const char *) const
    engine_tensor_type: 35,
    // TensorIOMode nvinfer1::apiv::VCudaEngine::getTensorIOMode(const char *) const
    engine_tensor_mode: 38,
    // int32_t nvinfer1::apiv::VCudaEngine::getNbOptimizationProfiles() const
    engine_profiles: 22,
    // IExecutionContext *nvinfer1::apiv::VCudaEngine::createExecutionContext()
    engine_create_context: 11,
    // bool nvinfer1::apiv::VExecutionContext::setOptimizationProfileAsync(int32_t, cudaStream_t)
    context_set_profile: 25,
    // bool nvinfer1::apiv::VExecutionContext::setInputShape(const char *, const Dims &)
    context_set_shape: 29,
    // Dims nvinfer1::apiv::VExecutionContext::getTensorShape(const char *) const
    context_shape: 30,
    // bool nvinfer1::apiv::VExecutionContext::setTensorAddress(const char *, void *)
    context_set_address: 32,
    // bool nvinfer1::apiv::VExecutionContext::enqueueV3(cudaStream_t)
    context_enqueue: 44,
    // bool nvonnxparser::IParser::parse(const void *, size_t, const char *)
    parser_parse: 0,
    // int nvonnxparser::IParser::getNbErrors() const
    parser_errors: 6,
    // const IParserError *nvonnxparser::IParser::getError(int) const
    parser_error: 7,
    // nvonnxparser::IParser::~IParser() [deleting]
    parser_destroy: 10,
    // not in every 8.x
    parser_set_flag: None,
    // ErrorCode nvonnxparser::IParserError::code() const
    error_code: 0,
    // const char *nvonnxparser::IParserError::desc() const
    error_description: 1,
    // int nvonnxparser::IParserError::node() const
    error_node: 5,
    // BuilderFlag::kFP16
    flag_fp16: Some(0),
    // BuilderFlag::kINT8
    flag_int8: Some(1),
    // BuilderFlag::kGPU_FALLBACK
    flag_gpu_fallback: 3,
    // BuilderFlag::kTF32
    flag_tf32: 7,
};
