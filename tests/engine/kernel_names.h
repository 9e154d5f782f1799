// The engine's kernels by the names that their PTX entries carry. For the host
// (the simulator) the functions stand beside them.
#pragma once

// X(constant, name, function)
#define KVSHIM_ENGINE_KERNELS(X)                                                                  \
  X(kFill,                                                                                        \
    "_ZN2at6native29vectorized_elementwise_kernelILi4ENS0_11FillFunctorIaEESt5arrayIPcLm1EEEEviT" \
    "0_T1_",                                                                                      \
    kvshim::engine::kFillFunction)                                                                \
  X(kTopK,                                                                                        \
    "_ZN2at6native6mbtopk10gatherTopKIfjLi2EEEvNS_4cuda6detail10TensorInfoIKT_T0_EES8_S8_bjS8_NS" \
    "5_IS6_S8_EES8_NS5_IlS8_EES8_jjPS6_PjSD_j",                                                   \
    kvshim::engine::kTopKFunction)                                                                \
  X(kWriter,                                                                                      \
    "_ZN4vllm30reshape_and_cache_flash_kernelI13__nv_bfloat16S1_LNS_18Fp8KVCacheDataTypeE0EEEvPK" \
    "T_S5_PT0_S7_PKlllllliiiPKfSB_i",                                                             \
    kvshim::engine::kWriterFunction)                                                              \
  X(kReader,                                                                                      \
    "_ZN7cutlass13device_kernelIN5flash20enable_sm90_or_laterINS1_16FlashAttnFwdSm90INS1_25Co"    \
    "llectiveMainloopFwdSm90ILi2EN4cute5tupleIJNS5_1CILi1EEES8_S8_EEENS6_IJNS7_ILi128EEESA_NS"    \
    "7_ILi64EEEEEELi64E13__nv_bfloat16fNS_4arch4Sm90ELb1ELb0ELb0ELb1ELb1ELb0ELb0ELb1ELb1ELb1E"    \
    "Lb0ELb0ESD_Li1EEEEEEEEEvNT_6ParamsE",                                                        \
    kvshim::engine::kReaderFunction)                                                              \
  X(kEmbed, "kvshim_engine_embed", &kvshim_engine_embed)                                          \
  X(kProject, "kvshim_engine_project", &kvshim_engine_project)                                    \
  X(kAdvance, "kvshim_engine_advance", &kvshim_engine_advance)                                    \
  X(kScores, "kvshim_engine_scores", &kvshim_engine_scores)                                       \
  X(kMystery, "kvshim_engine_mystery", &kvshim_engine_mystery)

namespace kvshim::engine {

enum class KernelName : unsigned {
#define KVSHIM_ENGINE_CONSTANT(constant, name, function) constant,
  KVSHIM_ENGINE_KERNELS(KVSHIM_ENGINE_CONSTANT)
#undef KVSHIM_ENGINE_CONSTANT
};

inline constexpr const char* kKernelNames[] = {
#define KVSHIM_ENGINE_NAME(constant, name, function) name,
    KVSHIM_ENGINE_KERNELS(KVSHIM_ENGINE_NAME)
#undef KVSHIM_ENGINE_NAME
};

}  // namespace kvshim::engine
