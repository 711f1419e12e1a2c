import { useState } from 'react';

export function App() {
  const [count, setCount] = useState<number>(0);
  return (
    <>
      <h1>edit 0</h1>
      <button onClick={() => setCount(count + 1)}>{count}</button>
    </>
  );
}
