/* cuBLAS's functions as gpucnn calls them, by their real prototypes. What they do is Python's (cublas.py). */

#include <stddef.h>

typedef int (*create_type)(void **handle);
typedef int (*stream_type)(void *handle, void *stream);
typedef int (*workspace_type)(void *handle, void *workspace, size_t bytes);
typedef int (*gemm_type)(
    void *handle, int transa, int transb, int m, int n, int k, const void *alpha, const void *a, int a_type, int lda,
    long long stride_a, const void *b, int b_type, int ldb, long long stride_b, const void *beta, void *c, int c_type,
    int ldc, long long stride_c, int count, int compute, int algorithm);

create_type standin_create;
stream_type standin_stream;
workspace_type standin_workspace;
gemm_type standin_gemm;

#ifndef CUBLAS_API_H_ /* otherwise NVIDIA's header is held against what follows */
typedef struct cublasContext *cublasHandle_t;
typedef struct CUstream_st *cudaStream_t;
typedef int cublasStatus_t, cublasOperation_t, cudaDataType, cublasComputeType_t, cublasGemmAlgo_t, libraryPropertyType;
#endif

cublasStatus_t cublasCreate_v2(cublasHandle_t *handle)
{
    return (cublasStatus_t)standin_create((void **)handle);
}

cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t stream)
{
    return (cublasStatus_t)standin_stream(handle, stream);
}

cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t handle, void *workspace, size_t bytes)
{
    return (cublasStatus_t)standin_workspace(handle, workspace, bytes);
}

cublasStatus_t cublasGetProperty(libraryPropertyType which, int *value)
{
    *value = which == 0 ? 13 : 0;
    return (cublasStatus_t)0;
}

cublasStatus_t cublasGemmEx(
    cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb, int m, int n, int k, const void *alpha,
    const void *a, cudaDataType a_type, int lda, const void *b, cudaDataType b_type, int ldb, const void *beta, void *c,
    cudaDataType c_type, int ldc, cublasComputeType_t compute, cublasGemmAlgo_t algorithm)
{
    return (cublasStatus_t)standin_gemm(handle, transa, transb, m, n, k, alpha, a, a_type, lda, 0, b, b_type, ldb, 0, beta,
                                        c, c_type, ldc, 0, 1, compute, algorithm);
}

cublasStatus_t cublasGemmStridedBatchedEx(
    cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb, int m, int n, int k, const void *alpha,
    const void *a, cudaDataType a_type, int lda, long long int stride_a, const void *b, cudaDataType b_type, int ldb,
    long long int stride_b, const void *beta, void *c, cudaDataType c_type, int ldc, long long int stride_c, int count,
    cublasComputeType_t compute, cublasGemmAlgo_t algorithm)
{
    return (cublasStatus_t)standin_gemm(handle, transa, transb, m, n, k, alpha, a, a_type, lda, stride_a, b, b_type, ldb,
                                        stride_b, beta, c, c_type, ldc, stride_c, count, compute, algorithm);
}
