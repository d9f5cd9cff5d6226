// The loops that move parameters once the threshold is known, put back what moved too early, or move everything.
// Included by kernel.cpp within its namespace.

// Chooses, of a run, those with a key > above, and the first `ties` of those with key == above. Takes these off `ties`.
template <class KeyOf>
inline void choose_moving(KeyOf key, int size, Key above, int64_t& ties, Chosen& chosen) {
  if (ties <= 0) return choose(key, size, next_key(above), chosen);
  Chosen equal;
  choose(key, size, next_key(above), chosen, &equal, above);
  equal.for_lines([&](int line, Mask mask) {
    for (; mask && ties > 0; --ties, mask &= Mask(mask - 1)) chosen.add(line, mask & Mask(-mask));
  });
}

// What `apply` does where the moments are in 8 bits: this is the last loop over them, and writes them.
template <class T>
void apply_and_write(const Tensor& t, int64_t start, int64_t length, Key above, int64_t ties) {
  float buffer_g[RUN], m[RUN], v[RUN];
  uint32_t former[LINE];
  T* p = static_cast<T*>(t.data[PARAM]);
  const Decay decay(t);
  const Movement movement(t);
  Chosen chosen;
  with_ranking(t, [&](auto rank) {
    for (int64_t done = 0; done < length; done += RUN) {
      const int64_t at = start + done;
      const int size = run_length(done, length);
      shrink_all(t, at, size);
      const float* g = load_grad(t, at, size, buffer_g);
      load(t, EXP_AVG, at, size, m);
      load(t, EXP_AVG_SQ, at, size, v);
      // To round a run takes so long that the processor itself does not fetch the next.
      for (int operand = PARAM; operand <= EXP_AVG_SQ; ++operand) prefetch(t, operand, at + size, RUN);
      decay.momenta(g, m, size);
      decay.squares(g, v, size);
      choose_moving([&](int i) { return rank(g[i], m[i], v[i], at + i); }, size, above, ties, chosen);
      store(t, EXP_AVG, at, size, m);
      store(t, EXP_AVG_SQ, at, size, v);
      chosen.for_lines([&](int line, Mask mask) {
        const int first = line * LINE;
        move_line(movement, at + first, mask, p + at + first, m + first, v + first, former);
      });
    }
  });
}

void apply(const Tensor& t, int64_t start, int64_t length, Key above, int64_t ties, Next next) {
  if (ties >= length) {  // all of them: nothing is to be counted
    --above;
    ties = 0;
  }
  if (t.codebooks) {
    return with_type_of_param(t, [&](auto zero) { apply_and_write<decltype(zero)>(t, start, length, above, ties); });
  }
  Mover mover(t);
  for_runs(t, start, length, [&](auto key, int64_t at, int size) {
    shrink_all(t, at, size);
    Chosen& chosen = mover.next();
    choose_moving(key, size, above, ties, chosen);
    chosen.start = at;
    mover.take();
    const int64_t done = at - start;
    if (!next.tensor || done + size > next.tensor->n) return;
    for (int operand = GRAD; operand <= EXP_AVG_SQ; ++operand) prefetch(*next.tensor, operand, next.start + done, size);
  });
}

// Candidates that move.
struct Passed {
  float exp_avg[RUN], exp_avg_sq[RUN];
  uint32_t position[RUN];
  int count = 0;
};

template <class T>
void move_passed(const Movement& movement, T* data, int64_t start, const Passed& passed) {
  float x[RUN];
  for (int i = 0; i < passed.count; ++i) x[i] = widen(data[passed.position[i]]);
  for (int i = 0; i < passed.count; ++i) x[i] = movement.moved(x[i], passed.exp_avg[i], passed.exp_avg_sq[i]);
  for (int i = 0; movement.random && i < passed.count; ++i) x[i] = movement.rounded(x[i], start + passed.position[i]);
  for (int i = 0; i < passed.count; ++i) data[passed.position[i]] = narrow<T>(x[i]);
}

template <class T>
int64_t apply_listed_as(const Tensor& t, int64_t start, const Journal& journal, Key above, int64_t ties) {
  T* data = static_cast<T*>(t.data[PARAM]) + start;
  const Movement movement(t);
  Passed runs[2];  // the memory of one arrives while the other is worked on
  int turn = 0;
  for (int64_t done = 0; done < journal.candidates; done += RUN) {
    const Candidate* list = journal.end - 1 - done;  // they follow each other downwards
    Passed& passed = runs[turn];
    passed.count = 0;
    for (int i = 0; i < run_length(done, journal.candidates); ++i) {
      passed.exp_avg[passed.count] = list[-i].exp_avg;
      passed.exp_avg_sq[passed.count] = list[-i].exp_avg_sq;
      passed.position[passed.count] = list[-i].position;
      const bool tie = list[-i].key == above;
      passed.count += list[-i].key > above || (tie && ties > 0);
      ties -= tie;
    }
    for (int i = 0; i < passed.count; ++i) PREFETCH(data + passed.position[i]);
    turn = 1 - turn;
    move_passed(movement, data, start, runs[turn]);
    runs[turn].count = 0;
  }
  move_passed(movement, data, start, runs[1 - turn]);
  return ties > 0 ? ties : 0;
}

int64_t apply_listed(const Tensor& t, int64_t start, const Journal& journal, Key above, int64_t ties) {
  return with_type_of_param(t,
                            [&](auto zero) { return apply_listed_as<decltype(zero)>(t, start, journal, above, ties); });
}

template <class T>
void undo_as(const Tensor& t, int64_t start, const Journal& journal, Key high) {
  T* data = static_cast<T*>(t.data[PARAM]);
  const uint32_t* former = journal.former;
  Chosen chosen;
  uint16_t positions[RUN + LINE];
  for_runs(t, start, journal.until, [&](auto key, int64_t at, int size) {
    choose(key, size, next_key(high), chosen);
    const int count = chosen.positions(positions);
    for (int i = 0; i < count; ++i) data[at + positions[i]] = from_raw<T>(*former++);
  });
}

void undo(const Tensor& t, int64_t start, const Journal& journal, Key high) {
  with_type_of_param(t, [&](auto zero) { undo_as<decltype(zero)>(t, start, journal, high); });
}

void everything(const Tensor& t, int64_t start, int64_t length) {
  float buffer_g[RUN], buffer_m[RUN], buffer_v[RUN], buffer_p[RUN];
  const Decay decay(t);
  const Movement movement(t);
  for (int64_t done = 0; done < length; done += RUN) {
    const int64_t at = start + done;
    const int size = run_length(done, length);
    shrink_all(t, at, size);
    const float* g = load_grad(t, at, size, buffer_g);
    float* m = load(t, EXP_AVG, at, size, buffer_m);
    float* v = load(t, EXP_AVG_SQ, at, size, buffer_v);
    float* p = load(t, PARAM, at, size, buffer_p);
    INDEPENDENT for (int i = 0; i < size; ++i) {
      m[i] = decay.momentum(g[i], m[i]);
      v[i] = decay.square(g[i], v[i]);
      p[i] = movement.moved(p[i], m[i], v[i]);
    }
    for (int i = 0; movement.random && i < size; ++i) p[i] = movement.rounded(p[i], at + i);
    store(t, EXP_AVG, at, size, m);
    store(t, EXP_AVG_SQ, at, size, v);
    store(t, PARAM, at, size, p);
  }
}
