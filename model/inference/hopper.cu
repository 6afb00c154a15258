// A 3x3 convolution for GPUs of compute capability 9.0, in half precision with sums in single.
//
// Features lie in planes of 8: image, plane, row, pixel, 8 features, with a border of one zero pixel
// all around. A row of a plane is one piece of memory, which the copy engine brings into shared
// memory, and 8 pixels of it are one operand tile of the matrix unit, from whatever pixel one starts:
// so the three columns of a kernel are three starting points in the same copy.
//
// A block makes a strip of 128 pixels, row by row downwards. A row that has come in is multiplied
// with the weights of all rows of the kernel at once, of which each belongs to another row of
// results: DY rows of sums are kept and take turns. So every pixel is loaded once, and products are
// DY times as wide as the results.
//
// Two groups of 128 threads multiply, 64 pixels each; one warp loads.

typedef unsigned short half_bits;
typedef unsigned int u32;
typedef unsigned long long u64;

constexpr int STRIP = 128;           // pixels of results in a row of a block
constexpr int LOADED = STRIP + 2;    // pixels of features for them
constexpr int SHARED = 232448;       // bytes that a block may have
constexpr int BARRIERS = 1024;       // of them for barriers

enum Row { FIRST, MIDDLE, LAST };
enum Epilogue { ACTIVATE, PLAIN, MERGE, ENLARGE, FUSE, TO_RGB };

struct Layer {
    const half_bits* x;              // the first planes of the features
    const half_bits* grown;          // the others
    const half_bits* weights;
    const float* bias;
    half_bits* out;
    const half_bits* add1;           // MERGE: what is added, innermost first; FUSE: lf and hf
    const half_bits* add2;
    const half_bits* add3;
    float* rgb;                      // TO_RGB
    int height, width, pitch;        // of the features, in pixels; the pitch with the border
    int x_planes, grown_planes;      // in an image
    int out_planes, out_first, out_pitch;
    int rows, blocks_down, strips, slices;
};

// --- what C++ has no words for ---

__device__ __forceinline__ u32 shared_address(const void* p) {
    return static_cast<u32>(__cvta_generic_to_shared(p));
}

__device__ __forceinline__ void barrier_init(u32 barrier, u32 count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count));
}

__device__ __forceinline__ void barrier_expect(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
                 : "memory");
}

__device__ __forceinline__ void barrier_arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

__device__ __forceinline__ void barrier_wait(u32 barrier, u32 parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@done bra out;\n"
        "bra again;\n"
        "out:\n"
        "}" ::"r"(barrier), "r"(parity) : "memory");
}

__device__ __forceinline__ void copy_in(u32 to, const void* from, u32 bytes, u32 barrier) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
        ::"r"(to), "l"(from), "r"(bytes), "r"(barrier) : "memory");
}

// An operand in shared memory without swizzling: 8 rows of 16 bytes in a piece; `along_k` and
// `along_rows` are the bytes to the next piece.
__device__ __forceinline__ u64 operand(u32 address, u32 along_k, u32 along_rows) {
    return (u64)((address & 0x3FFFF) >> 4) | (u64)(along_k >> 4) << 16 | (u64)(along_rows >> 4) << 32;
}

__device__ __forceinline__ u32 packed(float low, float high) {
    u32 both;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}

__device__ __forceinline__ void unpack(u32 both, float& low, float& high) {
    asm("{\n.reg .f16 l, h;\nmov.b32 {l, h}, %2;\ncvt.f32.f16 %0, l;\ncvt.f32.f16 %1, h;\n}"
        : "=f"(low), "=f"(high) : "r"(both));
}

// Keeps the compiler from moving what it does to sums across this point.
template <int SLOTS, int COUNT> __device__ __forceinline__ void settle(float (&sums)[SLOTS][COUNT]) {
#pragma unroll
    for (int s = 0; s < SLOTS; ++s)
#pragma unroll
        for (int i = 0; i < COUNT; ++i) asm volatile("" : "+f"(sums[s][i])::"memory");
}

__device__ __forceinline__ float activated(float v) { return v > 0 ? v : 0.2f * v; }

template <int SLOTS, int NS> struct Product;
//PRODUCTS

// The values added to the results of a row, or mixed with them: two features of every 8 in two pixels.
template <int PLANES, Epilogue EPILOGUE> struct Added {
    static constexpr int SOURCES = EPILOGUE == MERGE ? 3 : EPILOGUE == FUSE ? 2 : 0;
    u32 values[SOURCES > 0 ? SOURCES : 1][2][PLANES];

    // To be called long before the values are needed.
    __device__ __forceinline__ void load(const Layer& layer, size_t at, size_t plane_values, int x) {
        const half_bits* sources[3] = {layer.add1, layer.add2, layer.add3};
#pragma unroll
        for (int s = 0; s < SOURCES; ++s)
#pragma unroll
            for (int h = 0; h < 2; ++h)
#pragma unroll
                for (int j = 0; j < PLANES; ++j)
                    values[s][h][j] = sources[s] && x + 8 * h < layer.width
                                          ? *reinterpret_cast<const u32*>(sources[s] + at + 64 * h + j * plane_values)
                                          : 0;
    }
};

// Finishes the sums of two pixels of a row, x and x + 8, and stores them. Of every 8 features this
// thread has those at `pair` and behind it; the other three of its quad have the others.
template <int PLANES, Epilogue EPILOGUE, int COUNT>
__device__ __forceinline__ void store(
    const Layer& layer, size_t at, size_t plane_values, int x, int pair, const float (&sums)[COUNT],
    const float (&bias)[PLANES][2], const Added<PLANES, EPILOGUE>& added) {
#pragma unroll
    for (int h = 0; h < 2; ++h, x += 8) {
        if constexpr (EPILOGUE == ENLARGE) {
            // Two pixels of the result are 32 bytes, of which each of the quad stores 8: whole
            // sectors.
            const int from = pair & 2;
#pragma unroll
            for (int j = 0; j < PLANES; ++j) {
                const int left = 4 * j + 2 * h, right = left + 4 * PLANES;
                const u32 l = packed(activated(sums[left] + bias[j][0]), activated(sums[left + 1] + bias[j][1]));
                const u32 r = packed(activated(sums[right] + bias[j][0]), activated(sums[right + 1] + bias[j][1]));
                const u32 l0 = __shfl_sync(0xFFFFFFFF, l, from, 4), l1 = __shfl_sync(0xFFFFFFFF, l, from + 1, 4);
                const u32 r0 = __shfl_sync(0xFFFFFFFF, r, from, 4), r1 = __shfl_sync(0xFFFFFFFF, r, from + 1, 4);
                if (x < layer.width)
                    *reinterpret_cast<uint2*>(layer.out + at + 128 * h + j * plane_values) =
                        pair < 4 ? make_uint2(l0, l1) : make_uint2(r0, r1);
            }
        } else if (x < layer.width) {
            if constexpr (EPILOGUE == TO_RGB) {
                float* to = layer.rgb + at + 8 * h;
                if (pair < 3) to[pair * plane_values] = sums[2 * h] + bias[0][0];
                if (pair + 1 < 3) to[(pair + 1) * plane_values] = sums[2 * h + 1] + bias[0][1];
                continue;
            }
#pragma unroll
            for (int j = 0; j < PLANES; ++j) {
                float low = sums[4 * j + 2 * h] + bias[j][0], high = sums[4 * j + 2 * h + 1] + bias[j][1];
                float l, r, hf_l, hf_r;
                if constexpr (EPILOGUE == ACTIVATE || EPILOGUE == FUSE) {
                    low = activated(low);
                    high = activated(high);
                }
                if constexpr (EPILOGUE == MERGE) {
                    unpack(added.values[0][h][j], l, r);
                    low = 0.2f * low + l, high = 0.2f * high + r;
                    if (layer.add2) {
                        unpack(added.values[1][h][j], l, r);
                        low = 0.2f * low + l, high = 0.2f * high + r;
                    }
                    unpack(added.values[2][h][j], l, r);
                    low += l, high += r;
                }
                if constexpr (EPILOGUE == FUSE) {
                    unpack(added.values[0][h][j], l, r);
                    unpack(added.values[1][h][j], hf_l, hf_r);
                    low = l + __fdividef(hf_l - l, 1 + __expf(-low));
                    high = r + __fdividef(hf_r - r, 1 + __expf(-high));
                }
                *reinterpret_cast<u32*>(layer.out + at + 64 * h + j * plane_values) = packed(low, high);
            }
        }
    }
}

template <int CIN, int FEATURES, int NS, int DY, Epilogue EPILOGUE>
__global__ void __launch_bounds__(384, 1) convolve(const __grid_constant__ Layer layer) {
    constexpr int K = CIN % 32 == 0 ? 32 : 16;      // features in a stage
    constexpr int STAGE_PLANES = K / 8;
    constexpr int PIECES = CIN / K;
    constexpr int DX = 3;
    constexpr int N = DY * NS;
    constexpr int PLANE_BYTES = LOADED * 16;
    constexpr int STAGE_BYTES = STAGE_PLANES * PLANE_BYTES;
    constexpr int PIECE_BYTES = K * DX * N * 2;      // of weights
    constexpr int FITTING = (SHARED - BARRIERS - PIECES * PIECE_BYTES) / STAGE_BYTES;
    constexpr int STAGES = FITTING < 16 ? FITTING : 16;
    static_assert(STAGES >= 2, "too little shared memory");

    extern __shared__ __align__(1024) unsigned char shared[];
    const u32 weights = shared_address(shared);
    const u32 stages = weights + PIECES * PIECE_BYTES;
    const u32 barriers = weights + SHARED - BARRIERS;
    const u32 full = barriers, empty = full + 8 * STAGES, loaded = empty + 8 * STAGES;

    int item = blockIdx.x;
    const int slice = item % layer.slices;
    item /= layer.slices;
    const int strip = item % layer.strips;
    item /= layer.strips;
    const int y0 = item % layer.blocks_down * layer.rows;
    const int image = item / layer.blocks_down;
    const int rows = min(layer.rows, layer.height - y0);
    const int rows_in = rows + DY - 1;
    // Of the four pixels that one becomes, a slice makes an upper or a lower pair, of half of the
    // features.
    const int below = EPILOGUE == ENLARGE ? slice >> 1 : 0;
    const int first_output = EPILOGUE == ENLARGE ? (slice & 1) * (NS / 2) : slice * NS;

    const int warp = __shfl_sync(0xFFFFFFFF, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; ++i) {
            barrier_init(full + 8 * i, 1);
            barrier_init(empty + 8 * i, 8);
        }
        for (int i = 0; i < PIECES; ++i) barrier_init(loaded + 8 * i, 1);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();

    if (warp >= 8) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (warp > 8) return;
        const half_bits* from = layer.weights + (size_t)slice * CIN * DX * N;
        for (int i = lane; i < PIECES; i += 32) {
            barrier_expect(loaded + 8 * i, PIECE_BYTES);
            copy_in(weights + i * PIECE_BYTES, from + i * (PIECE_BYTES / 2), PIECE_BYTES, loaded + 8 * i);
        }
        asm volatile("griddepcontrol.wait;" ::: "memory");
        asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
        const size_t plane_pixels = (size_t)(layer.height + 2) * layer.pitch;
        int stage = 0, phase = 1;
        for (int r = 0; r < rows_in; ++r) {
            const size_t first = (size_t)(y0 + r + below) * layer.pitch + strip * STRIP;
            for (int piece = 0; piece < PIECES; ++piece) {
                barrier_wait(empty + 8 * stage, phase);
                if (lane == 0) barrier_expect(full + 8 * stage, STAGE_BYTES);
                __syncwarp();
                if (lane < STAGE_PLANES) {
                    const int plane = piece * STAGE_PLANES + lane;
                    const half_bits* source =
                        plane < FEATURES / 8
                            ? layer.x + ((size_t)image * layer.x_planes + plane) * plane_pixels * 8
                            : layer.grown + ((size_t)image * layer.grown_planes + plane - FEATURES / 8) * plane_pixels * 8;
                    copy_in(stages + stage * STAGE_BYTES + lane * PLANE_BYTES, source + first * 8, PLANE_BYTES, full + 8 * stage);
                }
                if (++stage == STAGES) stage = 0, phase ^= 1;
            }
        }
        return;
    }

    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    asm volatile("griddepcontrol.wait;" ::: "memory");
    const int group = warp / 4;
    // Of a fragment of sums this thread holds features 2 * (lane % 4) + {0, 1} of every 8, in two
    // pixels.
    const int pixel = strip * STRIP + group * 64 + warp % 4 * 16 + lane / 4;
    const int pair = lane % 4 * 2;
    constexpr int OUT_PLANES = EPILOGUE == ENLARGE ? NS / 16 : NS / 8;
    float bias[OUT_PLANES][2];
#pragma unroll
    for (int j = 0; j < OUT_PLANES; ++j) {
        bias[j][0] = layer.bias[first_output + j * 8 + pair];
        bias[j][1] = layer.bias[first_output + j * 8 + pair + 1];
    }
    float sums[DY][NS / 2], rest[1][NS / 2];
    auto& newest = reinterpret_cast<float(&)[1][NS / 2]>(sums[0]);
#pragma unroll
    for (int s = 0; s < DY; ++s)
#pragma unroll
        for (int i = 0; i < NS / 2; ++i) sums[s][i] = 0;

    const u32 pixels = stages + group * 64 * 16;
    int stage = 0, phase = 0;

    // Offset of the first result of this thread in the block, and the strides to the next row and plane.
    constexpr int UP = EPILOGUE == ENLARGE ? 2 : 1;
    size_t at, row_values, plane_values;
    if constexpr (EPILOGUE == TO_RGB) {
        row_values = layer.width;
        plane_values = (size_t)layer.height * layer.width;
        at = (size_t)image * 3 * plane_values + y0 * row_values + pixel;
    } else {
        row_values = (size_t)layer.out_pitch * 8 * UP;
        plane_values = (size_t)(UP * layer.height + 2) * layer.out_pitch * 8;
        at = ((size_t)image * layer.out_planes + layer.out_first + first_output / 8) * plane_values +
             ((size_t)(UP * y0 + below + 1) * layer.out_pitch + UP * pixel + 1) * 8 + UP * pair;
    }

    // Row r of the features. What it gives for row r - s of the results is added to sums[s]. The
    // first row has to do with none but the first sums, the last one with none but the last.
    auto take_row = [&]<int ROW>(int r) {
        Added<OUT_PLANES, EPILOGUE> added;
        if (r >= DY - 1) added.load(layer, at, plane_values, pixel);
#pragma unroll
        for (int piece = 0; piece < PIECES; ++piece) {
            if (r == 0) barrier_wait(loaded + 8 * piece, 0);
            barrier_wait(full + 8 * stage, phase);
            const u32 a = pixels + stage * STAGE_BYTES;
            const u32 b = weights + piece * PIECE_BYTES + (ROW == LAST ? (DY - 1) * NS * 16 : 0);
            if (piece == 0) ROW == LAST ? settle(rest) : settle(sums);
            asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
            for (int i = 0; i < DX * K / 16; ++i) {
                const int dx = i / (K / 16), plane = i % (K / 16) * 2;
                const u64 features = operand(a + dx * 16 + plane * PLANE_BYTES, PLANE_BYTES, 128);
                const u64 kernel = operand(b + (dx * STAGE_PLANES + plane) * N * 16, N * 16, 128);
                if constexpr (ROW == MIDDLE)
                    Product<DY, NS>::add(sums, features, kernel);
                else
                    Product<1, NS>::add(ROW == FIRST ? newest : rest, features, kernel);
            }
            asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
            if (piece > 0) {
                asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
                if (lane == 0) barrier_arrive(empty + 8 * (stage == 0 ? STAGES - 1 : stage - 1));
            }
            if (++stage == STAGES) stage = 0, phase ^= 1;
        }
        asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
        ROW == LAST ? settle(rest) : settle(sums);
        if (lane == 0) barrier_arrive(empty + 8 * (stage == 0 ? STAGES - 1 : stage - 1));

        float(&done)[NS / 2] = ROW == LAST ? rest[0] : sums[DY - 1];
        if (r >= DY - 1) {
            store<OUT_PLANES, EPILOGUE>(layer, at, plane_values, pixel, pair, done, bias, added);
            at += row_values;
        }
        if (ROW == LAST) return;
        // The matrix unit wants its sums side by side, so they move on.
#pragma unroll
        for (int i = 0; i < NS / 2; ++i) {
#pragma unroll
            for (int s = DY - 1; s > 0; --s)
                asm volatile("mov.f32 %0, %1;" : "=f"(sums[s][i]) : "f"(sums[s - 1][i]));
            asm volatile("mov.f32 %0, 0f00000000;" : "=f"(sums[0][i]));
        }
    };

    take_row.template operator()<FIRST>(0);
    for (int r = 1; r < rows_in - 1; ++r) take_row.template operator()<MIDDLE>(r);
#pragma unroll
    for (int i = 0; i < NS / 2; ++i) asm volatile("mov.f32 %0, %1;" : "=f"(rest[0][i]) : "f"(sums[DY - 1][i]));
    take_row.template operator()<LAST>(rows_in - 1);
}

// Zeros around the planes of `out`, one block for each.
__global__ void __launch_bounds__(384, 1) clear_border(const __grid_constant__ Layer layer) {
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    const size_t rows = layer.height + 2, pitch = layer.out_pitch;
    uint4* plane = reinterpret_cast<uint4*>(layer.out) + blockIdx.x * rows * pitch;
    const uint4 zeros = make_uint4(0, 0, 0, 0);
    for (int x = threadIdx.x; x < layer.width + 2; x += blockDim.x) {
        plane[x] = zeros;
        plane[(rows - 1) * pitch + x] = zeros;
    }
    for (int y = threadIdx.x; y < rows; y += blockDim.x) {
        plane[y * pitch] = zeros;
        plane[y * pitch + layer.width + 1] = zeros;
    }
}
