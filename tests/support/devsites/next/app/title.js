'use client';

export function Title() {
  return <h1>edit 0</h1>;
}
