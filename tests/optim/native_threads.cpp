// The library on 1, 2 and 4 threads of its own under ThreadSanitizer, which cannot be loaded into Python: no data race,
// and the same bits. That these are the right ones is for test_native.py and test_native_shards.py. `make sanitize`
// builds and runs it.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <utility>
#include <vector>

#include "shards.h"

using namespace mofo;

namespace {

struct Shape {
  int64_t blocks, n;
  double fraction;
  bool ties;  // few values, so that not all of those equal to the threshold move
  bool decay_all, transposed;
};

// Blocks of more than 2^17 entries are shared between the threads, the others are tasks for one thread each.
const Shape SHAPES[] = {
    {1, 150'001, 0.05, false, false, false}, {1, 140'000, 0.05, true, true, false},
    {2, 140'000, 0.3, false, true, true},    {1, 140'000, 1.0, false, false, false},
    {2, 70'000, 0.05, false, false, false},  {1, 70'000, 0.05, true, false, false},
    {200, 1000, 0.05, true, true, false},    {100, 700, 0.6, false, false, true},
    {1, 5000, 1e-6, false, false, false},    {1, 1, 0.05, false, false, false},
};

// Configurations in which the sample is taken of small blocks too, and misses, and with which memory is too small.
struct Variant {
  const char* name;
  int64_t small, sample_rate, band_share, journal_share;
  double spread;
};
const Variant VARIANTS[] = {
    {"default", 1 << 14, 32, 16, 4, 2.0},
    {"sampled", 64, 4, 16, 4, 2.0},
    {"unsampled", int64_t(1) << 40, 32, 16, 4, 2.0},
    {"bracket of one key", 64, 4, 16, 4, 0.0},
    {"bracket of everything", 64, 4, 16, 4, 1e9},
    {"no memory for the band", 64, 4, int64_t(1) << 40, 4, 2.0},
    {"no memory for journals", 64, 4, 16, int64_t(1) << 40, 2.0},
    {"memory for some journals", 64, 4, 16, 1 << 10, 2.0},
    {"memory for all journals", 64, 4, 16, 1, 2.0},
};

using Memory = std::vector<unsigned char>;

void append(Memory& memory, float value, Dtype dtype) {
  unsigned char bytes[sizeof(float)];
  std::memcpy(bytes, &value, sizeof(value));
  const int dropped = dtype == BFLOAT16 ? 2 : 0;  // bfloat16 is the upper half of float32 (on a little-endian machine)
  memory.insert(memory.end(), bytes + dropped, bytes + sizeof(value));
}

// The operands of one tensor of each shape, in the order of Operand.
std::vector<Memory> make_operands(Dtype dtype) {
  std::vector<Memory> operands;
  std::mt19937 random(0);
  for (const Shape& shape : SHAPES) {
    const auto value = [&] {
      const float uniform = float(random() >> 8) * 0x1p-23f - 1;
      return shape.ties ? std::round(uniform * 3) / 4 : uniform * uniform * uniform;
    };
    Memory param, grad, exp_avg, exp_avg_sq;
    for (int64_t i = 0; i < shape.blocks * shape.n; ++i) {
      append(param, value(), dtype);
      append(grad, value(), dtype);
      append(exp_avg, value(), FLOAT32);
      append(exp_avg_sq, std::abs(value()), FLOAT32);
    }
    for (Memory* operand : {&param, &grad, &exp_avg, &exp_avg_sq}) operands.push_back(std::move(*operand));
  }
  return operands;
}

const Kernel* best_kernel() {
  for (const char* name : {"avx512", "avx2"}) {
    if (const void* kernel = mofo_cpu_kernel(name)) return static_cast<const Kernel*>(kernel);
  }
  return static_cast<const Kernel*>(mofo_cpu_kernel("baseline"));
}

// The tensors of a step, of which those with strides read them in `strides`.
std::vector<Tensor> make_tensors(std::vector<Memory>& operands, Score score, Dtype dtype,
                                 std::vector<std::vector<int64_t>>& strides) {
  std::vector<Tensor> tensors;
  for (const Shape& shape : SHAPES) {
    Tensor tensor{};
    for (int operand = PARAM; operand <= EXP_AVG_SQ; ++operand) {
      tensor.data[operand] = operands[tensors.size() * 4 + size_t(operand)].data();
    }
    if (shape.transposed) {
      const int64_t rows = 100, columns = shape.blocks * shape.n / rows;
      strides.push_back({2, rows, columns, 1, rows, 1, rows, 1, rows, 1, rows});
      tensor.strides = strides.back().data();  // which stays where it is when `strides` grows
    }
    tensor.dtype[PARAM] = tensor.dtype[GRAD] = dtype;
    tensor.blocks = shape.blocks;
    tensor.n = shape.n;
    tensor.k = std::max<int64_t>(1, int64_t(double(shape.n) * shape.fraction));
    tensor.score = score;
    tensor.noise_key = 123456789;
    tensor.decay_all = shape.decay_all;
    tensor.lerp_weight = 0.1;
    tensor.beta2 = 0.999;
    tensor.addcmul_value = 0.001;
    tensor.correction = 0.06;
    tensor.eps = 1e-8;
    tensor.shrink = 0.99;
    tensor.step_size = 1.0;
    tensors.push_back(tensor);
  }
  return tensors;
}

Config make_config(const Variant& variant, int64_t threads) {
  Config config{};  // openmp is null: the library's own threads
  config.threads = threads;
  config.kernel = best_kernel();
  config.small = variant.small;
  config.sample_rate = variant.sample_rate;
  config.max_lines = 1 << 13;
  config.band_share = variant.band_share;
  config.journal_share = variant.journal_share;
  config.spread = variant.spread;
  return config;
}

void check(int error) {
  if (!error) return;
  std::printf("error %d\n", error);
  std::exit(1);
}

// The operands after one step.
std::vector<Memory> after_step(std::vector<Memory> operands, const Variant& variant, Score score, Dtype dtype,
                               int64_t threads) {
  std::vector<std::vector<int64_t>> strides;
  const std::vector<Tensor> tensors = make_tensors(operands, score, dtype, strides);
  const Config config = make_config(variant, threads);
  check(mofo_cpu_step(tensors.data(), int64_t(tensors.size()), &config));
  return operands;
}

// The operands after the phases of two steps of shards, with all that they counted. Keys of magnitudes between `least`
// and `most` are kept, and that of `threshold` is the k-th highest.
std::pair<std::vector<Memory>, std::vector<int64_t>> after_phases(std::vector<Memory> operands, Score score,
                                                                  Dtype dtype, int64_t threads, float least, float most,
                                                                  float threshold) {
  constexpr int64_t bins = 2048;
  std::vector<std::vector<int64_t>> strides;
  std::vector<Tensor> tensors = make_tensors(operands, score, dtype, strides);
  std::vector<Share> shares;
  int64_t blocks = 0;
  for (Tensor& tensor : tensors) {
    tensor.strides = nullptr;  // shards are contiguous
    shares.push_back({blocks, tensor.n > 5000 ? 31 : 1});
    blocks += tensor.blocks;
  }
  const auto key = [](float x) {
    int32_t bits;
    std::memcpy(&bits, &x, sizeof(bits));
    return int64_t(bits);
  };
  const auto all = [&](int64_t x) { return std::vector<int64_t>(size_t(blocks), x); };
  const std::vector<int64_t> low = all(key(least)), high = all(key(most)), shift = all(14);
  const std::vector<int64_t> nothing = all(0), infinity = all(INFINITE), coarse = all(20);
  std::vector<int64_t> counted;
  const Config config = make_config(VARIANTS[0], threads);
  Shards* shards = mofo_cpu_shards_new();
  for (int step = 0; step < 2; ++step) {
    std::vector<int64_t> sample(size_t(blocks * bins)), inside(size_t(blocks * (bins + 1)));
    check(mofo_cpu_shards_begin(shards, tensors.data(), shares.data(), int64_t(tensors.size()), bins, &config));
    mofo_cpu_shards_sample(shards, key(0x1p-48f), 18, sample.data());
    mofo_cpu_shards_moments(shards, low.data(), high.data());
    mofo_cpu_shards_count(shards, low.data(), high.data(), shift.data(), inside.data());
    mofo_cpu_shards_count(shards, nothing.data(), infinity.data(), coarse.data(), inside.data());
    mofo_cpu_shards_move(shards, all(key(threshold)).data(), all(7).data());
    for (const std::vector<int64_t>* counts : {&sample, &inside}) {
      counted.insert(counted.end(), counts->begin(), counts->end());
    }
  }
  mofo_cpu_shards_delete(shards);
  return {std::move(operands), std::move(counted)};
}

// Whether every parameter of `before` has moved.
bool all_moved(const std::vector<Memory>& before, const std::vector<Memory>& after) {
  for (size_t param = 0; param < before.size(); param += 4) {
    if (before[param] == after[param]) return false;
  }
  return true;
}

}  // namespace

int main() {
  int passed = 0, failed = 0;
  for (const Dtype dtype : {FLOAT32, BFLOAT16}) {
    const std::vector<Memory> start = make_operands(dtype);
    for (const float threshold : {0.2f, 0.25f, 0.5f}) {  // below the bracket, inside, and above
      for (const Score score : {MOMENTUM, MOMENTUM_OVER_RMS}) {
        const auto after = [&](int64_t threads) {
          return after_phases(start, score, dtype, threads, 0.22f, 0.3f, threshold);
        };
        const auto expected = after(1);
        bool equal = all_moved(start, expected.first);
        for (const int64_t threads : {2, 4}) equal &= after(threads) == expected;
        ++(equal ? passed : failed);
        if (!equal)
          std::printf("failed: shards, threshold %g, score %d, dtype %d\n", threshold, int(score), int(dtype));
      }
    }
  }
  std::printf("%d passed, %d failed: phases of shards\n", passed, failed);
  std::fflush(stdout);
  for (const Dtype dtype : {FLOAT32, BFLOAT16}) {
    const std::vector<Memory> start = make_operands(dtype);
    for (const Variant& variant : VARIANTS) {
      for (const Score score : {MOMENTUM, GRADIENT, MOMENTUM_OVER_RMS, RANDOM}) {
        const std::vector<Memory> expected = after_step(start, variant, score, dtype, 1);
        bool equal = all_moved(start, expected);
        for (const int64_t threads : {2, 4}) equal &= after_step(start, variant, score, dtype, threads) == expected;
        ++(equal ? passed : failed);
        if (!equal) std::printf("failed: %s, score %d, dtype %d\n", variant.name, int(score), int(dtype));
      }
    }
  }
  std::printf("%d passed, %d failed on 1, 2 and 4 threads\n", passed, failed);
  return failed != 0;
}
