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

enum zk_status {
  ZK_OK = 0,
  ZK_BAD_DTYPE = 1,
  ZK_BAD_ISA = 2,
  ZK_NO_CUDA = 3,
  ZK_CUDA_ERROR = 4,
  ZK_NO_MEMORY = 5,
  ZK_TOO_LARGE = 6
};
enum zk_dtype { ZK_F32 = 0, ZK_BF16 = 1, ZK_F16 = 2, ZK_F64 = 3 };
enum zk_distribution { ZK_GAUSSIAN = 0, ZK_RADEMACHER = 1 };
enum zk_rounding { ZK_NEAREST = 0, ZK_STOCHASTIC = 1 };
enum zk_isa { ZK_PORTABLE = 0, ZK_AVX2 = 1, ZK_AVX512 = 2 };
enum { ZK_MAX_DIMS = 8, ZK_OUT_SHIFT = 8 };

/* One tensor of a list. Element i (row-major logical index) draws the normal of index offset + i. */
typedef struct zk_tensor {
  const void* src; /* read; null reads zeros */
  void* dst;       /* written; may equal src */
  int64_t numel;
  uint64_t offset; /* index of the first element in the unsharded tensor */
  uint32_t stream; /* ordinal of the tensor */
  int32_t dtype;   /* zk_dtype of src and dst; in a perturb also src's + ((1 + dst's) << ZK_OUT_SHIFT) */
  int32_t ndim;    /* 0: src and dst are both dense row-major, the arrays below are unused */
  int64_t sizes[ZK_MAX_DIMS];
  int64_t src_strides[ZK_MAX_DIMS]; /* in elements */
  int64_t dst_strides[ZK_MAX_DIMS];
} zk_tensor;

/* dst <- round(decay * src + sum_k scales[k] * z(seeds[k])), folded left in fp32 (float64 where src is), rounded once
 * to dst's dtype. With decay = 0 nothing is read: decay * src is 0. */
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

/* Runs kernels on the threads of an OpenMP runtime that the process already has: the address of its
 * GOMP_parallel, or null for threads made per call (the default). */
void zk_cpu_use_openmp(void* gomp_parallel);

int zk_cpu_perturb(const zk_tensor* tensors, int64_t n_tensors, const zk_move* move, int isa, int threads);

/* The 256 normals of one tile (blocks 32 * tile ...), for any 64-bit block counter. */
int zk_cpu_normal_tile(float* out, uint64_t seed, uint32_t stream, uint32_t lane, uint64_t tile, int isa);

/* One launch for the whole list on `stream` (a cudaStream_t). ZK_NO_CUDA in a build without nvcc. */
int zk_cuda_perturb(const zk_tensor* tensors, int64_t n_tensors, const zk_move* move, int device, void* stream);
int zk_cuda_device_count(void);
const char* zk_cuda_last_error(void);

/* ---- tensor-train layers */

#define ZK_TT_FIXED UINT64_MAX /* the offset of a core or bias that noise leaves alone */

enum zk_activation { ZK_IDENTITY = 0, ZK_RELU = 1, ZK_GELU = 2, ZK_SILU = 3, ZK_TANH = 4 };

/* A linear layer whose weight is a tensor train: core i is [ranks[i], modes[i], ranks[i + 1]], dense
 * row-major fp32, ranks[0] = ranks[n_cores] = 1. The first `split` modes multiply to the input size,
 * the others to the output size. Query p reads cores[i] + p * core_strides[i].
 * The cuts group the contraction (core/tt.h): 0 <= in_cut < split <= out_cut < n_cores. */
typedef struct zk_tt {
  int32_t n_cores, split, in_cut, out_cut;
  const int64_t* modes;
  const int64_t* ranks; /* n_cores + 1 */
  const float* const* cores;
  const int64_t* core_strides;
  const uint64_t* offsets; /* of the cores, then of the bias, in their stream; read with noise only */
  const float* bias;       /* [out], or null */
  int64_t bias_stride;
} zk_tt;

/* Rows of x and y: those of query p are [p * rows, (p + 1) * rows). y may be x itself (same strides). */
typedef struct zk_tt_rows {
  const void* x;
  void* y;
  int64_t rows, queries;
  int64_t x_stride, y_stride; /* elements from one row to the next */
  int32_t x_dtype, y_dtype;   /* fp32, bf16, fp16; y's is x's or fp32 */
} zk_tt_rows;

/* Query p uses fma(scales[p], z(seeds[p], stream, offset + i), core) instead of the stored cores and biases,
 * which then are those of one query (strides 0). Made inside the call, never written back. */
typedef struct zk_tt_noise {
  const uint64_t* seeds;
  const float* scales;
  uint32_t stream;
  int32_t distribution;
} zk_tt_noise;

/* left [queries, in, r] and right [queries, r, out], dense fp32. */
int zk_cpu_tt_halves(const zk_tt* layer, float* left, float* right, int64_t queries, int isa, int threads);

/* y = x W + bias. noise may be null. */
int zk_cpu_tt_linear(const zk_tt* layer, const zk_tt_rows* rows, const zk_tt_noise* noise, int isa, int threads);

/* y = x + scale * up(activation(down(x))). noise may be null. */
int zk_cpu_tt_adapter(const zk_tt* down, const zk_tt* up, float scale, int activation, const zk_tt_rows* rows,
                      const zk_tt_noise* noise, int isa, int threads);

/* The same on a device, on `stream`: one launch for all groups of all layers and queries, one for the rows
 * (more than 256 queries with noise: two for every 256). `workspace` is device memory, 16-byte aligned, of as
 * many floats as the _workspace function says for the same arguments. ZK_TOO_LARGE: more than 256 steps of
 * contraction (about 128 cores), or a size or a tile beyond 2^31. */
int64_t zk_cuda_tt_halves_workspace(const zk_tt* layer, int64_t queries);
int64_t zk_cuda_tt_workspace(const zk_tt* layers, int n_layers, const zk_tt_rows* rows, int noise);
int zk_cuda_tt_halves(const zk_tt* layer, float* left, float* right, int64_t queries, float* workspace, int device,
                      void* stream);
/* One layer: y = x W + bias; two, down and up: y = x + scale * up(activation(down(x))). */
int zk_cuda_tt_rows(const zk_tt* layers, int n_layers, float scale, int activation, const zk_tt_rows* rows,
                    const zk_tt_noise* noise, float* workspace, int device, void* stream);

/* ---- rules with dense state */

/* A tensor of the shape of a zk_tensor, of float32 (state) or of bytes (a mask). */
typedef struct zk_state {
  void* data;
  int64_t strides[ZK_MAX_DIMS]; /* in elements; unused where the tensor's ndim is 0: then this is dense too */
} zk_state;

/* zk_cpu_perturb where masks[i] is not 0, or where masks is null and |p| <= thresholds[i] (0 or above);
 * elsewhere dst takes src's bits. */
int zk_cpu_perturb_masked(const zk_tensor* tensors, const zk_state* masks, const float* thresholds, int64_t n_tensors,
                          const zk_move* move, int isa, int threads);

enum zk_adam_variant { ZK_ADAM = 0, ZK_ADAMAX = 1, ZK_ADAMM = 2 };

/* rest is 1 - beta, root_scale 1 / sqrt(1 - beta2^t), step_size lr / (1 - beta1^t) (core/adam.h). */
typedef struct zk_adam_rule {
  float beta1, rest1, beta2, rest2, step_size, root_scale, eps, l2;
} zk_adam_rule;

/* w = decay * p + sum_k displacements[k] * z(seeds[k]);  g = sum_k grads[k] * z(seeds[k]) + l2 * w;
 * p <- round(w - step_size * u(g, m, v)). At least one seed; stochastic bits from lane 2 under seeds[0]. */
typedef struct zk_adam {
  const uint64_t* seeds;
  const float* grads;
  const float* displacements;
  int64_t count;
  float decay;
  zk_adam_rule rule;
  int32_t variant, distribution, rounding;
} zk_adam;

/* states: m, v (and for adamm the maximum) of tensor 0, then of tensor 1, ... */
int zk_cpu_adam(const zk_tensor* tensors, const zk_state* states, int64_t n_tensors, const zk_adam* move, int isa,
                int threads);

/* root_alpha is sqrt(alpha), root_rest sqrt(1 - alpha), rest 1 - beta (core/adamu.h). */
typedef struct zk_adamu_rule {
  float root_alpha, root_rest, beta1, rest1, beta2, rest2, sigma, momentum_scale;
} zk_adamu_rule;

/* update 0: p <- round(decay * p + scale * m_t);
 * update 1: p <- round(decay * p + displacement * m_t + scale * m_t / sqrt(v + sigma)), m <- momentum_scale * m_t. */
typedef struct zk_adamu {
  uint64_t seed;
  float scale, displacement, decay;
  zk_adamu_rule rule;
  int32_t update, rounding;
} zk_adamu;

/* states: m of each tensor. */
int zk_cpu_adamu(const zk_tensor* tensors, const zk_state* states, int64_t n_tensors, const zk_adamu* move, int isa,
                 int threads);

/* The same on a device, as zk_cuda_perturb. */
int zk_cuda_perturb_masked(const zk_tensor* tensors, const zk_state* masks, const float* thresholds, int64_t n_tensors,
                           const zk_move* move, int device, void* stream);
int zk_cuda_adam(const zk_tensor* tensors, const zk_state* states, int64_t n_tensors, const zk_adam* move, int device,
                 void* stream);
int zk_cuda_adamu(const zk_tensor* tensors, const zk_state* states, int64_t n_tensors, const zk_adamu* move, int device,
                  void* stream);

#ifdef __cplusplus
}
#endif
#endif /* ZOKERN_H */
