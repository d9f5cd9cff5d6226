// How parameters move: p <- (1 - lr * weight_decay) * p - step_size * m / (sqrt(v) / correction + eps).
// Included by kernel.cpp within its namespace.

struct Movement {
  explicit Movement(const Tensor& t)
      : shrink(t.decay_all ? 1.0f : float(t.shrink)),
        step(float(-t.step_size)),
        correction(float(t.correction)),
        eps(float(t.eps)),
        random(t.random_rounding),
        rounding_key(t.rounding_key) {}

  const float shrink, step, correction, eps;
  const bool random;
  const int64_t rounding_key;

  float moved(float p, float m, float v) const { return p * shrink + step * m / (sqrtf(v) / correction + eps); }

  // A new value rounded at random to bfloat16, so that narrow leaves it alone (rounding.py).
  float rounded(float x, int64_t index) const {
    if (!(fabsf(x) <= FLT_MAX)) return x;
    const uint32_t noise = hash_index(index, rounding_key) >> 16;
    return bits<float>((bits<uint32_t>(x) + noise) & 0xFFFF0000u);
  }
};

// Moves those entries of a line whose bit is set. Copies the former values of the line.
template <class T>
inline void move_line(const Movement& movement, int64_t start, Mask mask, T* RESTRICT p, const float* RESTRICT m,
                      const float* RESTRICT v, uint32_t* RESTRICT former) {
  float x[LINE];
  uint32_t moved[LINE];
  for (int i = 0; i < LINE; ++i) former[i] = to_raw(p[i]);
  for (int i = 0; i < LINE; ++i) x[i] = movement.moved(widen(p[i]), m[i], v[i]);
  // sizeof: a random rounding is of bfloat16 alone, and the compiler must know that there is none of float32
  for (int i = 0; sizeof(T) == 2 && movement.random && i < LINE; ++i) x[i] = movement.rounded(x[i], start + i);
  for (int i = 0; i < LINE; ++i) moved[i] = to_raw(narrow<T>(x[i]));
  const uint32_t set = mask;
  INDEPENDENT for (int i = 0; i < LINE; ++i) {
    const uint32_t chosen = 0u - (set >> i & 1);
    p[i] = from_raw<T>((moved[i] & chosen) | (former[i] & ~chosen));
  }
}

// Moves likewise those of a line that is cut short by the end of a run, or does not lie in one piece.
template <class T>
void move_scattered_line(const Tensor& t, const Movement& movement, int64_t start, int length, Mask mask,
                         uint32_t* former) {
  int64_t offsets[LINE];
  T* data = static_cast<T*>(t.data[PARAM]);
  T p[LINE] = {};
  float buffer_m[LINE], buffer_v[LINE], m[LINE] = {}, v[LINE] = {};
  if (t.strides) find_offsets(t, PARAM, start, length, offsets);
  for (int i = 0; i < length; ++i) p[i] = data[t.strides ? offsets[i] : start + i];
  memcpy(m, load(t, EXP_AVG, start, length, buffer_m), length * sizeof(float));
  memcpy(v, load(t, EXP_AVG_SQ, start, length, buffer_v), length * sizeof(float));
  move_line<T>(movement, start, mask, p, m, v, former);
  for (int i = 0; i < length; ++i) {
    if (mask >> i & 1) data[t.strides ? offsets[i] : start + i] = p[i];
  }
}

#if defined(__AVX512F__)

// Moves the chosen entries of a float32 tensor that lies in one piece. They are brought side by side first, so that
// roots and divisions are computed for them alone.
inline void move_together(const Tensor& t, const Movement& movement, const Chosen& chosen, uint32_t* former) {
  uint32_t raw[RUN + LINE];
  float m[RUN + LINE], v[RUN + LINE], x[RUN + LINE];
  if (!former) former = raw;
  int count = 0;
  chosen.for_lines([&](int line, Mask mask) {
    const int64_t at = chosen.start + line * LINE;
    append_line(mask, static_cast<const uint32_t*>(t.data[PARAM]) + at, former + count);
    append_line(mask, static_cast<const float*>(t.data[EXP_AVG]) + at, m + count);
    append_line(mask, static_cast<const float*>(t.data[EXP_AVG_SQ]) + at, v + count);
    count += bit_count(mask);
  });
  for (int i = 0; i < (count + LINE - 1) / LINE * LINE; ++i) x[i] = movement.moved(bits<float>(former[i]), m[i], v[i]);
  count = 0;
  chosen.for_lines([&](int line, Mask mask) {
    spread_line(mask, x + count, static_cast<float*>(t.data[PARAM]) + chosen.start + line * LINE);
    count += bit_count(mask);
  });
}

#endif

// Moves the chosen entries. Their former values are appended to `former`, unless that is null.
template <class T>
void move_as(const Tensor& t, const Movement& movement, const Chosen& chosen, uint32_t* former) {
#if defined(__AVX512F__)
  if (sizeof(T) == sizeof(float) && !t.strides) return move_together(t, movement, chosen, former);
#endif
  uint32_t before[LINE];
  chosen.for_lines([&](int line, Mask mask) {
    const int left = chosen.length - line * LINE;
    const int64_t at = chosen.start + line * LINE;
    if (t.strides || left < LINE) {
      move_scattered_line<T>(t, movement, at, left < LINE ? left : LINE, mask, before);
    } else {
      const float* m = static_cast<const float*>(t.data[EXP_AVG]) + at;
      const float* v = static_cast<const float*>(t.data[EXP_AVG_SQ]) + at;
      move_line(movement, at, mask, static_cast<T*>(t.data[PARAM]) + at, m, v, before);
    }
    if (former) former = append_values(mask, before, former);
  });
}

// Moves the chosen entries of one run after the other, each after the next has been chosen from: meanwhile its memory
// arrives.
class Mover {
 public:
  explicit Mover(const Tensor& t) : t_(t), movement_(t) {}
  ~Mover() { move_run(1 - turn_); }

  Chosen& next() { return runs_[turn_]; }

  // Takes what is chosen in next(). Former values are kept in `former`, unless that is null.
  void take(uint32_t* former = nullptr) {
    const Chosen& chosen = runs_[turn_];
    chosen.for_lines([&](int line, Mask) { prefetch(t_, PARAM, chosen.start + line * LINE, 1); });
    former_[turn_] = former;
    turn_ = 1 - turn_;
    move_run(turn_);
  }

 private:
  void move_run(int turn) {
    with_type_of_param(t_, [&](auto zero) { move_as<decltype(zero)>(t_, movement_, runs_[turn], former_[turn]); });
    runs_[turn].lines = 0;
  }

  const Tensor& t_;
  const Movement movement_;
  Chosen runs_[2];
  uint32_t* former_[2] = {};
  int turn_ = 0;
};

void shrink_all(const Tensor& t, int64_t start, int length) {
  if (!t.decay_all || t.shrink == 1) return;
  float buffer[RUN];
  float* p = load(t, PARAM, start, length, buffer);
  const float shrink = float(t.shrink);
  for (int i = 0; i < length; ++i) p[i] *= shrink;
  store(t, PARAM, start, length, p);
}
