// What ranks the entries, and how their moments decay: the arithmetic of one entry.
// Included by kernel.cpp within its namespace.

// ---- Randomness: a hash of an entry's row-major index and the key of its tensor and step (hashing.py).

inline uint32_t mix(uint32_t x) {  // the finaliser of MurmurHash3
  x = (x ^ x >> 16) * 0x85EBCA6Bu;
  x = (x ^ x >> 13) * 0xC2B2AE35u;
  return x ^ x >> 16;
}

inline uint32_t hash_index(int64_t index, int64_t key) {
  return mix(mix(uint32_t(index) ^ uint32_t(key)) + uint32_t(uint64_t(key) >> 32) + uint32_t(index >> 32));
}

// ---- Keys: what ranks the entries (scores() in scores.py). An entry whose momentum is not finite is INFINITE.

inline Key key_of_magnitude(float x) {
  const Key key = bits<Key>(x) & 0x7FFFFFFF;
  return key < INFINITE ? key : INFINITE;
}

// The next higher key; the highest, which no entry has, stays.
inline Key next_key(Key key) { return key < HIGHEST ? key + 1 : HIGHEST; }

// The key of an entry, from its gradient, its new moments and its row-major index.
template <Score score>
struct Ranking {
  int64_t noise_key;

  explicit Ranking(const Tensor& t) : noise_key(t.noise_key) {}

  Key operator()(float g, float m, float v, int64_t index) const {
    const Key momentum = key_of_magnitude(m);
    if (score == MOMENTUM) return momentum;
    float x = g;
    if (score == MOMENTUM_OVER_RMS) {
      x = fabsf(m) / sqrtf(v);  // 0/0 counts as 0, and v underflows before m does
      x = x != x ? 0.0f : x < FLT_MAX ? x : FLT_MAX;
    }
    if (score == RANDOM) {
      x = float(int32_t(hash_index(index, noise_key) >> 8)) * 0x1p-24f;
    }
    return momentum == INFINITE ? INFINITE : bits<Key>(x) & 0x7FFFFFFF;
  }
};

// Calls loop(ranking) with the ranking by the tensor's score.
template <class Loop>
inline void with_ranking(const Tensor& t, Loop loop) {
  if (t.score == MOMENTUM) loop(Ranking<MOMENTUM>(t));
  if (t.score == GRADIENT) loop(Ranking<GRADIENT>(t));
  if (t.score == MOMENTUM_OVER_RMS) loop(Ranking<MOMENTUM_OVER_RMS>(t));
  if (t.score == RANDOM) loop(Ranking<RANDOM>(t));
}

// ---- Moments: m <- m + (1 - beta1) * (g - m) and v <- beta2 * v + (1 - beta2) * g * g, rounded as lerp_ and
// addcmul_ do.

struct Decay {
  explicit Decay(const Tensor& t)
      : from_old(fabsf(float(t.lerp_weight)) < 0.5f),
        weight(from_old ? float(t.lerp_weight) : float(t.lerp_weight) - 1),
        beta2(float(t.beta2)),
        value(float(t.addcmul_value)) {}

  const bool from_old;  // lerp_ starts from the nearer end
  const float weight, beta2, value;

  float momentum(float g, float m) const { return fmaf(weight, g - m, from_old ? m : g); }
  float square(float g, float v) const { return fmaf(value * g, g, v * beta2); }

  void momenta(const float* RESTRICT g, float* RESTRICT m, int length) const {
    for (int i = 0; i < length; ++i) m[i] = momentum(g[i], m[i]);
  }
  void squares(const float* RESTRICT g, float* RESTRICT v, int length) const {
    for (int i = 0; i < length; ++i) v[i] = square(g[i], v[i]);
  }
};
