// The pass over the moments: it updates them, counts and collects keys, and moves what is above the bracket.
// Included by kernel.cpp within its namespace.

// Collects what a pass over the moments finds, and brings it to the band, which threads may share, in larger pieces.
class Found {
 public:
  Found(Bracket bracket, Band& band) : bracket_(bracket), band_(band) {}
  ~Found() {
    flush();
    band_.above.fetch_add(above_, std::memory_order_relaxed);
  }

  // Counts what a run has above the bracket and inside it. Returns memory for the keys of the latter.
  Key* add(int above, int inside) {
    if (inside_ + inside > SIZE) flush();
    above_ += above;
    inside_ += inside;
    return keys_ + inside_ - inside;
  }

  // Counts keys that are all inside. Returns where they belong in the band, or null if there is no room.
  Key* add_all(int64_t inside) {
    const int64_t first = band_.inside.fetch_add(inside, std::memory_order_relaxed);
    return first + inside <= band_.capacity ? band_.keys + first : nullptr;
  }

 private:
  static constexpr int SIZE = 2 * RUN;

  void flush() {
    const int64_t first = band_.inside.fetch_add(inside_, std::memory_order_relaxed);
    if (bracket_.low < bracket_.high && first + inside_ <= band_.capacity) {
      memcpy(band_.keys + first, keys_, inside_ * sizeof(Key));
    }
    inside_ = 0;
  }

  const Bracket bracket_;
  Band& band_;
  Key keys_[SIZE];
  int inside_ = 0;
  int64_t above_ = 0;
};

// Takes room in the journal for what a run has above the bracket and inside it. Returns where former parameters are
// kept, or null if there is no room.
uint32_t* enter(Journal& journal, int above, int inside, int length) {
  uint32_t* former = journal.former + journal.moved;
  const Candidate* last = journal.end - journal.candidates - inside;
  const int64_t room = reinterpret_cast<const char*>(last) - reinterpret_cast<const char*>(former);
  if (room < int64_t((above + LINE) * sizeof(uint32_t))) return nullptr;  // append_values writes whole lines
  journal.moved += above;
  journal.candidates += inside;
  journal.until += length;
  return former;
}

// What `moments` does without a journal where these are in 8 bits.
void collect(const Tensor& t, int64_t start, int64_t length, Bracket bracket, Band& band) {
  uint16_t positions[RUN + LINE];
  Found found(bracket, band);
  Chosen above, inside;
  for_runs(t, start, length, [&](auto key, int64_t, int size) {
    if (bracket.low == 0 && bracket.high == HIGHEST) {
      Key* keys = found.add(0, size);
      for (int i = 0; i < size; ++i) keys[i] = key(i);
      return;
    }
    choose(key, size, next_key(bracket.high), above, &inside, bracket.low);
    const int count = inside.positions(positions);
    Key* keys = found.add(above.count(), count);
    for (int i = 0; i < count; ++i) keys[i] = key(positions[i]);
  });
}

void moments(const Tensor& t, int64_t start, int64_t length, Bracket bracket, Band& band, Journal* journal) {
  if (t.codebooks) return collect(t, start, length, bracket, band);
  float buffer_g[RUN], buffer_m[RUN], buffer_v[RUN];
  uint16_t positions[RUN + LINE];
  Found found(bracket, band);
  Mover mover(t);
  Chosen inside;
  const bool are_all_inside = bracket.low == 0 && bracket.high == HIGHEST;
  Key* const all = are_all_inside ? found.add_all(length) : nullptr;
  Key unused[RUN];
  with_ranking(t, [&](auto rank) {
    const Decay decay(t);
    for (int64_t done = 0; done < length; done += RUN) {
      const int64_t at = start + done;
      const int size = run_length(done, length);
      const float* g = load_grad(t, at, size, buffer_g);
      float* m = load(t, EXP_AVG, at, size, buffer_m);
      float* v = load(t, EXP_AVG_SQ, at, size, buffer_v);
      const auto update = [=](int i) {
        const float new_m = decay.momentum(g[i], m[i]), new_v = decay.square(g[i], v[i]);
        m[i] = new_m;
        v[i] = new_v;
        return rank(g[i], new_m, new_v, at + i);
      };
      if (are_all_inside) {
        Key* keys = all ? all + done : unused;
        // Where that many entries move, most lines have one. They are moved as soon as the keys of the block are known.
        if (t.k * 32 >= t.n) prefetch(t, PARAM, at, size);
        INDEPENDENT for (int i = 0; i < size; ++i) keys[i] = update(i);
        store(t, EXP_AVG, at, size, m);
        store(t, EXP_AVG_SQ, at, size, v);
        continue;
      }
      Chosen& above = mover.next();
      choose(update, size, next_key(bracket.high), above, &inside, bracket.low);
      store(t, EXP_AVG, at, size, m);
      store(t, EXP_AVG_SQ, at, size, v);
      const int count_above = above.count(), count = inside.positions(positions);
      Key* keys = found.add(count_above, count);
      for (int i = 0; i < count; ++i) {
        const int p = positions[i];
        keys[i] = rank(g[p], m[p], v[p], at + p);
      }
      uint32_t* former = journal && journal->until == done ? enter(*journal, count_above, count, size) : nullptr;
      if (!former) continue;
      Candidate* next = journal->end - (journal->candidates - count);
      for (int i = 0; i < count; ++i) {
        const int p = positions[i];
        *--next = {keys[i], m[p], v[p], uint32_t(done + p)};
      }
      for (int operand = GRAD; operand <= EXP_AVG_SQ; ++operand) prefetch(t, operand, at + size, AHEAD);
      above.start = at;
      mover.take(former);
    }
  });
}
