const limit = 2 ** 52

/** An exact sum of integers: fast while it is small, and a big integer beyond. */
export class Sum {
  #near = 0
  #far = 0n

  add(amount: number | bigint): void {
    if (typeof amount === 'bigint') this.#far += amount
    else {
      this.#near += amount
      if (this.#near > limit || this.#near < -limit) {
        this.#far += BigInt(this.#near)
        this.#near = 0
      }
    }
  }

  get value(): bigint {
    return this.#far + BigInt(this.#near)
  }
}

/** numerator / divisor (above 0) to the nearest whole; a half goes up. */
export function rounded(numerator: bigint, divisor: bigint): bigint {
  return floored(2n * numerator + divisor, 2n * divisor)
}

/** Down, below zero too. */
export function floored(numerator: bigint, divisor: bigint): bigint {
  const quotient = numerator / divisor
  return numerator < 0n && numerator % divisor !== 0n ? quotient - 1n : quotient
}
