"""The chat server that people write today, for comparison: FastAPI and uvicorn, in memory, message by message.

What it lacks is the point of the comparison: there is no log, no resume, and an answer ends with its socket.
"""

import sys
from collections import defaultdict
from typing import Any

import openai
import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect

__all__ = ["app"]

app = FastAPI()
client = openai.AsyncOpenAI(max_retries=0)
chats: defaultdict[str, list[Any]] = defaultdict(list)


@app.websocket("/ws/chat/{patient_id}/{session_id}")
async def chat(websocket: WebSocket, patient_id: str, session_id: str) -> None:
    """Answer each message of one socket, token by token."""
    await websocket.accept()
    messages = chats[f"{patient_id}/{session_id}"]
    try:
        while True:
            message = await websocket.receive_json()
            messages.append({"role": "user", "content": message["message"]})
            await websocket.send_json({"type": "status", "status": "thinking"})
            text = ""
            async for event in await client.chat.completions.create(model="m", messages=messages, stream=True):
                if event.choices and (token := event.choices[0].delta.content):
                    text += token
                    await websocket.send_json({"type": "delta", "text": token})
            messages.append({"role": "assistant", "content": text})
            await websocket.send_json({"type": "message", "role": "assistant", "content": text})
    except WebSocketDisconnect:
        pass


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", backlog=1024)
