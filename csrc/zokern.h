/* zokern's C interface: raw pointers and sizes in, a status out. Nothing here knows a framework.
 *
 * Every function returns ZK_OK or an error code; zk_status_string() says it in words. Arguments are
 * trusted: the caller has checked shapes, dtypes and overlap (zokern/ops does). Nothing is allocated
 * that grows with the number of elements.
 */
#ifndef ZOKERN_H
#define ZOKERN_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum zk_status { ZK_OK = 0, ZK_BAD_DTYPE = 1, ZK_BAD_ISA = 2, ZK_NO_CUDA = 3, ZK_CUDA_ERROR = 4 };
enum zk_dtype { ZK_F32 = 0, ZK_BF16 = 1, ZK_F16 = 2, ZK_F64 = 3 };
enum zk_distribution { ZK_GAUSSIAN = 0, ZK_RADEMACHER = 1 };
enum zk_rounding { ZK_NEAREST = 0, ZK_STOCHASTIC = 1 };
enum zk_isa { ZK_PORTABLE = 0, ZK_AVX2 = 1, ZK_AVX512 = 2 };
enum { ZK_MAX_DIMS = 8 };

/* One tensor of a list. Element i (row-major logical index) draws the normal of index offset + i. */
typedef struct zk_tensor {
  const void* src; /* read; null reads zeros */
  void* dst;       /* written; may equal src */
  int64_t numel;
  uint64_t offset; /* index of the first element in the unsharded tensor */
  uint32_t stream; /* ordinal of the tensor */
  int32_t dtype;   /* zk_dtype of src and dst */
  int32_t ndim;    /* 0: src and dst are both dense row-major, the arrays below are unused */
  int64_t sizes[ZK_MAX_DIMS];
  int64_t src_strides[ZK_MAX_DIMS]; /* in elements */
  int64_t dst_strides[ZK_MAX_DIMS];
} zk_tensor;

/* p <- round(decay * p + sum_k scales[k] * z(seeds[k])), folded left in fp32, rounded once. */
typedef struct zk_move {
  const uint64_t* seeds;
  const float* scales;
  int64_t count;
  float decay;
  uint32_t lane;        /* 0 for z */
  int32_t distribution; /* zk_distribution */
  int32_t rounding;     /* zk_rounding; stochastic bits come from lane 2 under seeds[0] */
} zk_move;

const char* zk_status_string(int status);

/* Highest instruction set this machine runs, and whether it runs `isa`. */
int zk_cpu_best_isa(void);
int zk_cpu_has_isa(int isa);

int zk_cpu_perturb(const zk_tensor* tensors, int64_t n_tensors, const zk_move* move, int isa, int threads);

/* The 256 normals of one tile (blocks 32 * tile ...), for any 64-bit block counter. */
int zk_cpu_normal_tile(float* out, uint64_t seed, uint32_t stream, uint32_t lane, uint64_t tile, int isa);

/* One launch for the whole list on `stream` (a cudaStream_t). ZK_NO_CUDA in a build without nvcc. */
int zk_cuda_perturb(const zk_tensor* tensors, int64_t n_tensors, const zk_move* move, int device, void* stream);
int zk_cuda_device_count(void);
const char* zk_cuda_last_error(void);

#ifdef __cplusplus
}
#endif
#endif /* ZOKERN_H */
